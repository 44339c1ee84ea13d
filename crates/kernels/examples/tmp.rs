use candle_core::*; use kernels::*; use std::sync::Arc; use std::time::Instant;
#[derive(Debug,Clone,Copy)] struct Silu;
multiversion!{ fn sv(x:&[f32],y:&mut [f32]){ for (&x,y) in x.iter().zip(y){*y=x*math::sigmoid(x);} }
 fn sd(x:&[f32],y:&mut [f32],d:&mut [f32]){ for ((&x,y),d) in x.iter().zip(y).zip(d){let s=math::sigmoid(x);*y=x*s;*d=s+x*s*(1.-s);} } }
impl Pointwise for Silu { fn value(&self,x:&[f32],y:&mut [f32]){sv(x,y)} fn value_and_derivative(&self,x:&[f32],y:&mut [f32],d:&mut [f32]){sd(x,y,d)} }
#[derive(Debug,Clone,Copy)] struct Id;
impl Pointwise for Id { fn value(&self,x:&[f32],y:&mut [f32]){y.copy_from_slice(x)} fn value_and_derivative(&self,x:&[f32],y:&mut [f32],d:&mut [f32]){y.copy_from_slice(x);d.fill(1.)} }
#[repr(C)] struct Ts(i64,i64); unsafe extern "C" { fn clock_gettime(c:i32,t:*mut Ts)->i32; }
struct Cpu; impl Cpu { fn now()->f64{ let mut t=Ts(0,0); unsafe{clock_gettime(2,&mut t)}; t.0 as f64+t.1 as f64*1e-9 } }
fn best(mut f: impl FnMut()->Result<()>)->f64{ let mut b=f64::MAX; let t0=Instant::now(); let mut n=0; while n<5 || (t0.elapsed().as_secs_f64()<2.0 && n<400) { let t=Cpu::now(); f().unwrap(); b=b.min(Cpu::now()-t); n+=1; } b*1e3 }
fn r(s: impl Into<Shape>)->Tensor{ Tensor::randn(0f32,1f32,s,&Device::Cpu).unwrap() }
fn run(name:&str, ins:&[Tensor], op: impl Fn(Kernels,&[Tensor])->Result<Tensor>) {
  let vars:Vec<Var>=ins.iter().map(|t|Var::from_tensor(t).unwrap()).collect(); let ts:Vec<Tensor>=vars.iter().map(|v|v.as_tensor().clone()).collect();
  let mut o=vec![]; for k in Kernels::ALL { let f=best(||{op(k,&ts)?;Ok(())}); 
    // forward+backward with loss = sum; sub baseline included
    let fb=best(||{ let y=op(k,&ts)?; let l= if y.rank()==0 {y} else {y.sum_all()?}; l.backward()?; Ok(())}); let y=Var::from_tensor(&op(k,&ts).unwrap().detach()).unwrap(); let base= if y.rank()==0 {0.} else {best(||{y.sum_all()?.backward()?;Ok(())})}; o.push((f,fb-f-base)); }
  println!("{name:34} fwd {:8.3} -> {:8.3} ms ({:5.2}x)   bwd {:8.3} -> {:8.3} ms ({:5.2}x)",o[0].0,o[1].0,o[0].0/o[1].0,o[0].1,o[1].1,o[0].1/o[1].1); }
fn main(){ unsafe extern "C" { fn mallopt(a:i32,b:i32)->i32; } if std::env::args().any(|a|a=="m") { unsafe { mallopt(-4,0); mallopt(-1,i32::MAX); mallopt(-2,256<<20);} }
 let only=std::env::args().nth(1).unwrap_or_default();
 for (d,ff,h,b,t,v) in [(64usize,172usize,4usize,32usize,64usize,512usize),(256,688,8,16,256,4096)] { let n=b*t; println!("d_model {d} d_ff {ff} heads {h} batch {b} seq {t} vocab {v}");
  let go=|s:&str| only.is_empty()||only=="m"||s.contains(&only);
  if go("linear") { run(&format!("linear {n}x{d}x{d}"),&[r((n,d)),r((d,d))],|k,x|linear(k,&x[0],&x[1]));
  run(&format!("linear {n}x{d}x{ff}"),&[r((n,d)),r((ff,d))],|k,x|linear(k,&x[0],&x[1]));
  run(&format!("linear {n}x{ff}x{d}"),&[r((n,ff)),r((d,ff))],|k,x|linear(k,&x[0],&x[1]));
  run(&format!("linear {n}x{d}x{v}"),&[r((n,d)),r((v,d))],|k,x|linear(k,&x[0],&x[1])); }
  if go("gated") {
  run("gated silu*id",&[r((n,ff)),r((n,ff))],|k,x| match k {Kernels::Reference=>x[0].silu()?*&x[1],_=>gated(k,&x[0],&x[1],Arc::new(Silu),Arc::new(Id))});
  run("ungated silu",&[r((n,ff))],|k,x| match k {Kernels::Reference=>x[0].silu(),_=>ungated(k,&x[0],Arc::new(Silu))}); }
  if go("rms") { run("rms_norm",&[r((n,d)),r(d)],|k,x|rms_norm(k,&x[0],&x[1],1e-5)); }
  let ang=r((t,d/h/2)); let (c,s)=(ang.cos().unwrap(),ang.sin().unwrap());
  if go("rope") { run("rope",&[r((b,t,h,d/h))],|k,x|rope(k,&x[0],&c,&s)); }
  if go("attention") { run("attention",&[r((b,t,h,d/h)),r((b,t,h,d/h)),r((b,t,h,d/h))],|k,x|causal_attention(k,&x[0],&x[1],&x[2],0.2)); }
  let ids=Tensor::from_vec((0..n as u32).map(|i|i*7919%v as u32).collect::<Vec<_>>(),n,&Device::Cpu).unwrap();
  if go("cross") { run("cross_entropy",&[r((n,v))],|k,x|cross_entropy(k,&x[0],&ids)); }
  if go("embedding") { run("embedding",&[r((v,d))],|k,x|embedding(k,&x[0],&ids)); }
  if go("adamw") { let th=Var::from_tensor(&r((12*d,d))).unwrap(); let g=r((12*d,d)); let m=r((2,12*d,d)).abs().unwrap(); let st=AdamWStep{lr:1e-3,beta1:0.9,beta2:0.95,eps:1e-8,weight_decay:0.1,bias_correction1:0.5,bias_correction2:0.5,grad_scale:1.};
   let o:Vec<f64>=Kernels::ALL.iter().map(|&k|best(||adamw_step(k,&th,&g,&m,&st))).collect(); println!("adamw {} params: {:.3} -> {:.3} ms ({:.1}x)",12*d*d,o[0],o[1],o[0]/o[1]);
   let a=best(||{grad_sq_norm(&g)?;Ok(())}); let z=best(||{g.sqr()?.sum_all()?;Ok(())}); println!("grad_sq_norm {z:.3} -> {a:.3}"); }
 } }
