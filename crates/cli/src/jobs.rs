//! Cells of a grid as child processes: each `ffnlab train` with its share of the cores, shown side by side.
//!
//! Processes rather than threads, because a crash or an out-of-memory kill of one cell must not take the others with
//! it, and because single-threaded runs side by side use two cores better than one run with two threads.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lm_train::config::RunConfig;
use lm_train::cores::Pin;
use lm_train::record::{RunStatus, Summary};
use lm_train::trainer::{Stop, TrainEvent};

use crate::args::Common;
use crate::output::note;
use crate::progress::{Events, show_on_bar, step_style};
use crate::signals;
use crate::slots::{Slot, Slots};

/// One cell to train.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name shown to the user.
    pub name: String,
    /// Resolved config.
    pub config: RunConfig,
    /// Run directory.
    pub out: PathBuf,
    /// Hash of config and data.
    pub id: String,
}

/// What became of the cells.
#[derive(Debug, Default)]
pub struct Report {
    /// Names of the cells that failed, with the reason.
    pub failed: Vec<(String, String)>,
    /// Who asked to stop before all cells had ended.
    pub stopped: Option<Stop>,
}

/// A message from the threads that read the children's output.
enum Message {
    Event(usize, Events),
    Closed(usize),
}

struct Running {
    index: usize,
    slot: usize,
    child: Child,
    stderr: std::thread::JoinHandle<String>,
    view: Option<ProgressBar>,
    summary: Option<Summary>,
}

/// Runs all `jobs`, as many at a time as there are slots.
///
/// # Errors
/// When a child cannot be started at all.
pub fn run(jobs: &[Job], slots: Slots, common: &Common) -> Result<Report> {
    signals::listen()?;
    let mut pool = Pool::new(jobs, slots, common);
    let result = pool.run();
    pool.screen.clear();
    result
}

struct Pool<'a> {
    jobs: &'a [Job],
    slots: Slots,
    common: &'a Common,
    screen: Screen,
    running: Vec<Running>,
    next: usize,
    report: Report,
    sender: Sender<Message>,
    receiver: Receiver<Message>,
}

impl<'a> Pool<'a> {
    fn new(jobs: &'a [Job], slots: Slots, common: &'a Common) -> Self {
        let (sender, receiver) = mpsc::channel();
        Self {
            jobs,
            slots,
            common,
            screen: Screen::new(jobs.len()),
            running: Vec::new(),
            next: 0,
            report: Report::default(),
            sender,
            receiver,
        }
    }

    fn run(&mut self) -> Result<Report> {
        loop {
            self.pass_on_signals();
            while self.report.stopped.is_none()
                && self.next < self.jobs.len()
                && let Some(slot) = self.slots.take()
            {
                self.start(slot)?;
            }
            if self.running.is_empty() {
                return Ok(std::mem::take(&mut self.report));
            }
            match self.receiver.recv_timeout(Duration::from_millis(100)) {
                Ok(Message::Event(index, event)) => self.hear(index, event),
                Ok(Message::Closed(index)) => self.reap(index)?,
                Err(_) => {}
            }
        }
    }

    fn start(&mut self, slot: usize) -> Result<()> {
        let (index, job) = (self.next, &self.jobs[self.next]);
        self.next += 1;
        let mut child =
            self.command(job, self.slots.get(slot))?.spawn().context("cannot start a child process")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A child that died at once has closed its end; its exit code tells why.
            let _ = stdin.write_all(job.config.to_toml()?.as_bytes());
        }
        let stdout = child.stdout.take().context("child without standard output")?;
        let mut stderr = child.stderr.take().context("child without standard error")?;
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let _ = sender.send(Message::Event(index, event));
                }
            }
            let _ = sender.send(Message::Closed(index));
        });
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let view = self.screen.begin(&job.name);
        self.running.push(Running { index, slot, child, stderr, view, summary: None });
        Ok(())
    }

    fn command(&self, job: &Job, slot: &Slot) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("cannot find my own binary")?);
        command
            .args(["train", "-", "--resume", "--events", "--out"])
            .arg(&job.out)
            .args(["--threads", &slot.threads.to_string()])
            .args([
                "--device",
                &self.common.device.to_string(),
                "--kernels",
                &self.common.kernels.to_string(),
            ])
            .args(self.common.recompute.then_some("--recompute"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        own_group_and_lifetime(&mut command);
        if let Some(cores) = &slot.cores {
            keep_to(&mut command, cores);
        }
        Ok(command)
    }

    fn hear(&mut self, index: usize, event: Events) {
        let Some(running) = self.running.iter_mut().find(|r| r.index == index) else { return };
        match event {
            Events::Train(event) => self.screen.show(running.view.as_ref(), &self.jobs[index].name, &event),
            Events::Ended(summary) => running.summary = Some(*summary),
        }
    }

    fn reap(&mut self, index: usize) -> Result<()> {
        let Some(position) = self.running.iter().position(|r| r.index == index) else { return Ok(()) };
        let mut running = self.running.remove(position);
        self.slots.give_back(running.slot);
        let status = running.child.wait().context("cannot wait for a child process")?;
        let stderr = running.stderr.join().unwrap_or_default();
        let name = &self.jobs[index].name;
        let stopped = self.report.stopped.is_some() && matches!(status.code(), Some(130 | 143));
        match running.summary {
            Some(summary) => self.screen.end(running.view, name, &result_line(&summary)),
            None if stopped => self.screen.end(running.view, name, "stopped, checkpoint written"),
            None => {
                let reason = stderr.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default();
                let reason = match reason.strip_prefix("ffnlab: ").unwrap_or(reason) {
                    "" => format!("ended with {status}"),
                    text => text.to_owned(),
                };
                self.screen.end(running.view, name, &format!("FAILED: {reason}"));
                self.report.failed.push((name.clone(), reason));
            }
        }
        Ok(())
    }

    fn pass_on_signals(&mut self) {
        let Some(stop) = signals::asked() else { return };
        if self.report.stopped.replace(stop).is_some() {
            return;
        }
        note("stopping: every running cell writes a checkpoint; a second signal ends at once");
        for running in &self.running {
            // SAFETY: the child has not been waited for, so its process id is still its own.
            unsafe { libc::kill(running.child.id() as i32, signals::number(stop)) };
        }
    }
}

/// A child gets a process group of its own, so that Ctrl-C reaches it once, through the parent; and it is told to stop
/// should the parent be killed.
fn own_group_and_lifetime(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

/// Pins a child to cores, so that the scheduler does not move it about. Where that is not permitted it runs unpinned; its
/// summary lists the cores that it could use.
fn keep_to(command: &mut Command, cores: &[usize]) {
    use std::os::unix::process::CommandExt;
    let pin = Pin::to(cores);
    // SAFETY: a pin is safe to apply between fork and exec.
    unsafe {
        command.pre_exec(move || {
            pin.apply();
            Ok(())
        });
    }
}

fn result_line(summary: &Summary) -> String {
    match (summary.status, &summary.validation) {
        (RunStatus::Finished, Some(result)) => {
            format!("loss {:.4}, {:.0} tokens/s, {:.0} s", result.loss, summary.tokens_per_s, summary.wall_s)
        }
        (RunStatus::Diverged, _) | (RunStatus::Finished, None) => {
            format!("diverged at step {}", summary.diverged_at.unwrap_or(summary.steps))
        }
    }
}

/// Bars on a terminal, lines elsewhere.
struct Screen {
    bars: Option<(MultiProgress, ProgressBar)>,
    total: usize,
    ended: usize,
    begun: Instant,
    last_line: Instant,
}

impl Screen {
    fn new(total: usize) -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let multi = MultiProgress::new();
            let bar = multi.add(ProgressBar::new(total as u64));
            let style =
                "{prefix:<22} {bar:28.green/blue} {pos:>6}/{len:<6} runs, {elapsed} so far, {eta} left";
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_prefix("all");
            bar.enable_steady_tick(Duration::from_secs(1));
            (multi, bar)
        });
        Self { bars, total, ended: 0, begun: Instant::now(), last_line: Instant::now() }
    }

    fn begin(&mut self, name: &str) -> Option<ProgressBar> {
        let (multi, _) = self.bars.as_ref()?;
        let bar = multi.add(ProgressBar::new(1));
        bar.set_style(step_style());
        bar.set_prefix(name.to_owned());
        Some(bar)
    }

    fn show(&mut self, view: Option<&ProgressBar>, name: &str, event: &TrainEvent) {
        if let Some(bar) = view {
            show_on_bar(bar, event, None);
        } else if let TrainEvent::Step { step, loss, .. } = event
            && self.last_line.elapsed() > Duration::from_secs(20)
        {
            self.last_line = Instant::now();
            note(&format!("{name}: step {step} loss {loss:.4} ({}/{} runs ended)", self.ended, self.total));
        }
    }

    fn end(&mut self, view: Option<ProgressBar>, name: &str, result: &str) {
        self.ended += 1;
        let line = format!("{name:<22} {result}");
        match (&self.bars, view) {
            (Some((multi, all)), Some(bar)) => {
                bar.finish_and_clear();
                let _ = multi.println(line);
                all.inc(1);
            }
            _ => {
                let left =
                    self.begun.elapsed().as_secs_f64() / self.ended as f64 * (self.total - self.ended) as f64;
                note(&format!("[{}/{}] {line} (about {left:.0} s left)", self.ended, self.total));
            }
        }
    }

    fn clear(&self) {
        if let Some((_, all)) = &self.bars {
            all.finish_and_clear();
        }
    }
}
