//! The model once more, in f64 and in plain loops: shares no code with what it checks but the activations' oracle.

use std::collections::HashMap;

use ffn_variants::Activation;
use lm_train::loaded::LoadedRun;

pub type Rows = Vec<Vec<f64>>;

/// What one forward pass holds, by layer: rows are tokens.
#[derive(Default)]
pub struct Trace {
    pub preactivations: Vec<Rows>,
    pub hidden: Vec<Rows>,
    pub residual: Vec<Rows>,
    /// Neurons dropped, by layer.
    pub dropped: Vec<usize>,
    /// Logits of every token.
    pub logits: Rows,
    /// Nats of every target.
    pub losses: Vec<f64>,
}

pub struct Plain {
    pub tensors: HashMap<String, Vec<f64>>,
    pub d: usize,
    pub d_ff: usize,
    n_layer: usize,
    n_head: usize,
    seq_len: usize,
    eps: f64,
    theta: f64,
    gated: bool,
    gate: Activation,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

impl Plain {
    /// `gate`: the function of the gate, or of the only branch; the up branch of a gated block is linear.
    pub fn of(run: &LoadedRun, gated: bool, gate: Activation) -> Self {
        let values = |var: &candle_core::Var| -> Vec<f64> {
            var.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
        };
        let tensors = run.params.vars().into_iter().map(|param| (param.name, values(&param.var)));
        let model = &run.config.model;
        let ffn = model.ffn.resolve(model.d_model).unwrap();
        Self {
            tensors: tensors.collect(),
            d: model.d_model,
            d_ff: ffn.d_ff,
            n_layer: model.n_layer,
            n_head: model.n_head,
            seq_len: model.seq_len,
            eps: model.norm_eps,
            theta: model.rope_theta,
            gated,
            gate,
        }
    }

    fn rms_norm(&self, name: &str, rows: &Rows) -> Rows {
        let weight = &self.tensors[name];
        let one = |row: &Vec<f64>| {
            let scale = 1.0 / (dot(row, row) / row.len() as f64 + self.eps).sqrt();
            row.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
        };
        rows.iter().map(one).collect()
    }

    fn linear(&self, name: &str, rows: &Rows) -> Rows {
        let weight = &self.tensors[name];
        rows.iter().map(|row| weight.chunks(row.len()).map(|w| dot(w, row)).collect()).collect()
    }

    fn attention(&self, layer: &str, x: &Rows) -> Rows {
        let project = |which: &str| self.linear(&format!("{layer}.self_attn.{which}_proj.weight"), x);
        let (mut q, mut k, v) = (project("q"), project("k"), project("v"));
        let d_head = self.d / self.n_head;
        for rows in [&mut q, &mut k] {
            for (t, row) in rows.iter_mut().enumerate() {
                for (i, start) in (0..d_head / 2).flat_map(|i| (0..self.n_head).map(move |h| (i, h * d_head)))
                {
                    let angle = t as f64 * self.theta.powf(-2.0 * i as f64 / d_head as f64);
                    let (a, b) = (start + i, start + i + d_head / 2);
                    let (x, y) = (row[a], row[b]);
                    row[a] = x * angle.cos() - y * angle.sin();
                    row[b] = y * angle.cos() + x * angle.sin();
                }
            }
        }
        let mut out = vec![vec![0.0; self.d]; x.len()];
        for (t, head) in (0..x.len()).flat_map(|t| (0..self.n_head).map(move |h| (t, h * d_head))) {
            let part = |rows: &Rows, t: usize| rows[t][head..head + d_head].to_vec();
            let scores: Vec<f64> =
                (0..=t).map(|s| (dot(&part(&q, t), &part(&k, s)) / (d_head as f64).sqrt()).exp()).collect();
            let sum: f64 = scores.iter().sum();
            for (s, score) in scores.iter().enumerate() {
                for i in 0..d_head {
                    out[t][head + i] += score / sum * v[s][head + i];
                }
            }
        }
        self.linear(&format!("{layer}.self_attn.o_proj.weight"), &out)
    }

    /// Output of neuron i for a hidden activation of `h`.
    pub fn neuron(&self, layer: usize, i: usize, h: f64) -> Vec<f64> {
        let weight = &self.tensors[&format!("model.layers.{layer}.mlp.down_proj.weight")];
        (0..self.d).map(|row| h * weight[row * self.d_ff + i]).collect()
    }

    /// All tokens but the last are predicted from, in windows of the context length. With `thresholds`, neurons of layer
    /// l with an output shorter than `thresholds[l]` are dropped.
    pub fn forward(&self, ids: &[u32], thresholds: Option<&[f64]>) -> Trace {
        let mut trace = Trace {
            preactivations: vec![Vec::new(); self.n_layer],
            hidden: vec![Vec::new(); self.n_layer],
            residual: vec![Vec::new(); self.n_layer],
            dropped: vec![0; self.n_layer],
            logits: Vec::new(),
            losses: Vec::new(),
        };
        let embedding = &self.tensors["model.embed_tokens.weight"];
        for start in (0..ids.len() - 1).step_by(self.seq_len) {
            let end = (start + self.seq_len).min(ids.len() - 1);
            let row = |&id: &u32| embedding[id as usize * self.d..(id as usize + 1) * self.d].to_vec();
            let mut x: Rows = ids[start..end].iter().map(row).collect();
            let add = |x: &mut Rows, y: Rows| {
                x.iter_mut().zip(y).for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
            };
            for l in 0..self.n_layer {
                let layer = format!("model.layers.{l}");
                let y =
                    self.attention(&layer, &self.rms_norm(&format!("{layer}.input_layernorm.weight"), &x));
                add(&mut x, y);
                let z = self.rms_norm(&format!("{layer}.post_attention_layernorm.weight"), &x);
                let up = self.linear(&format!("{layer}.mlp.up_proj.weight"), &z);
                let pre = if self.gated {
                    self.linear(&format!("{layer}.mlp.gate_proj.weight"), &z)
                } else {
                    up.clone()
                };
                for (t, pre) in pre.into_iter().enumerate() {
                    let mut hidden: Vec<f64> = pre.iter().map(|&x| self.gate.value_f64(x)).collect();
                    if self.gated {
                        hidden.iter_mut().zip(&up[t]).for_each(|(h, up)| *h *= up);
                    }
                    trace.preactivations[l].push(pre);
                    trace.hidden[l].push(hidden.clone());
                    for (i, &h) in hidden.iter().enumerate() {
                        let output = self.neuron(l, i, h);
                        if thresholds.is_some_and(|thresholds| norm(&output) < thresholds[l]) {
                            trace.dropped[l] += 1;
                            continue;
                        }
                        x[t].iter_mut().zip(output).for_each(|(x, y)| *x += y);
                    }
                }
                trace.residual[l].extend(x.clone());
            }
            let logits = self.linear("lm_head.weight", &self.rms_norm("model.norm.weight", &x));
            for (t, logits) in logits.iter().enumerate() {
                let sum: f64 = logits.iter().map(|x| x.exp()).sum();
                trace.losses.push(sum.ln() - logits[ids[start + t + 1] as usize]);
                trace.logits.push(logits.clone());
            }
        }
        trace
    }

    pub fn loss(&self, ids: &[u32], thresholds: Option<&[f64]>) -> f64 {
        let losses = self.forward(ids, thresholds).losses;
        losses.iter().sum::<f64>() / losses.len() as f64
    }

    /// A text that the model itself finds likely: each token the first or second in rank behind those before it in its
    /// window. So the model is good at it, and worse without its neurons.
    pub fn text(&self, count: usize) -> Vec<u32> {
        let mut ids = vec![1, 0];
        while ids.len() <= count {
            let last = ids.len() - 1;
            let trace = self.forward(&ids, None);
            let logits = &trace.logits[last - 1];
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            ids[last] = order[last % 2];
            ids.push(0);
        }
        ids.pop();
        ids
    }

    /// CETT of a layer at a threshold, and the share of neurons below it, by the definition.
    pub fn cett(&self, layer: usize, hidden: &[Vec<f64>], eps: f64) -> (f64, f64) {
        let (mut cett, mut below) = (0.0, 0);
        for token in hidden {
            let (mut tail, mut whole) = (vec![0.0; self.d], vec![0.0; self.d]);
            for (i, &h) in token.iter().enumerate() {
                let output = self.neuron(layer, i, h);
                let small = norm(&output) < eps;
                below += usize::from(small);
                for (k, y) in output.into_iter().enumerate() {
                    whole[k] += y;
                    tail[k] += if small { y } else { 0.0 };
                }
            }
            cett += norm(&tail) / norm(&whole);
        }
        (cett / hidden.len() as f64, below as f64 / (hidden.len() * self.d_ff) as f64)
    }
}
