//! The training loop: data in, run directory out, able to stop and go on at any step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use kernels::{Kernels, Saving};
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::cores;
use crate::data::{CacheDir, Corpus, FoundData, TokenBatches, TokenStream};
use crate::evaluate::evaluate;
use crate::host;
use crate::memory::peak_rss_mb;
use crate::model::flops_per_token;
use crate::probe;
use crate::record::{
    Checkpoint, CheckpointState, EvalResult, Existing, HealthRow, Metric, MetricsWriter, RUN_SCHEMA, RunDir,
    RunStatus, Summary, read_metrics, summarise_health, write_atomic,
};
use crate::schedule::due;
use crate::session::{Session, StepStats};
use crate::stress::outlier_batch;

/// What to train, and where.
#[derive(Clone, Debug)]
pub struct TrainRequest {
    /// The resolved config.
    pub config: RunConfig,
    /// Run directory.
    pub out: PathBuf,
    /// Go on with an unfinished run found there; otherwise such a directory is an error.
    pub resume: bool,
    /// Where tensors live.
    pub device: Device,
    /// Which implementation of the operations runs.
    pub kernels: Kernels,
    /// What blocks keep for the backward pass.
    pub saving: Saving,
    /// Where tokenised text is kept.
    pub cache: CacheDir,
    /// Commit that this program was built from, for the record.
    pub commit: Option<String>,
}

/// A request of the outside world to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// How a call of [`train`] ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The run has ended now.
    Ended(Box<Summary>),
    /// It had ended before; nothing was done.
    AlreadyEnded(Box<Summary>),
    /// Stopped on request after a checkpoint at this step.
    Interrupted {
        /// Who asked.
        stop: Stop,
        /// Steps taken so far.
        step: u64,
    },
}

/// What happens during a run, for whoever shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum TrainEvent {
    /// Something slow is being prepared.
    Preparing(String),
    /// Steps begin (or go on).
    Started {
        /// Steps already taken.
        step: u64,
        /// Steps of the whole run.
        total: u64,
        /// Parameters of the model.
        params: usize,
    },
    /// One step was taken.
    Step {
        /// Steps taken.
        step: u64,
        /// Training loss, nats per token.
        loss: f64,
        /// Training tokens per second since the start of this sitting.
        tokens_per_s: f64,
    },
    /// A validation on the way.
    Validated {
        /// Steps taken.
        step: u64,
        /// Loss on the sequences used on the way, nats per token.
        val_loss: f64,
    },
    /// The final validation proceeds.
    Evaluating {
        /// Tokens scored.
        done: u64,
        /// Tokens to score.
        total: u64,
    },
}

/// Trains on the data of the request's config until the run ends or `stop` asks for a pause, which is honoured after a
/// checkpoint.
///
/// # Errors
/// Unusable data, a run directory that belongs to something else, a full disk. What was written stays valid.
pub fn train(
    request: &TrainRequest,
    data: FoundData,
    on_event: &mut dyn FnMut(TrainEvent),
    stop: &dyn Fn() -> Option<Stop>,
) -> Result<Outcome> {
    let config = &request.config;
    let fingerprint = data.fingerprint().to_owned();
    let run_id = config.run_id(&fingerprint)?;
    let (dir, existing) = RunDir::open(&request.out, config, &run_id)?;
    let checkpoint = match existing {
        Existing::Ended(summary) => return Ok(Outcome::AlreadyEnded(summary)),
        Existing::Nothing => None,
        Existing::Unfinished(Some(_)) if !request.resume => {
            bail!("{} holds an unfinished run; go on with --resume, or remove it", request.out.display())
        }
        Existing::Unfinished(checkpoint) => checkpoint,
    };
    let shown = RefCell::new(&mut *on_event);
    let preparing = |message: &str| (shown.borrow_mut())(TrainEvent::Preparing(message.to_owned()));
    let corpus = data.load(&request.cache, &preparing)?;
    Run::new(request, dir, run_id, fingerprint, corpus, checkpoint.as_deref())?.train(on_event, stop)
}

/// A run in progress: everything the loop touches.
struct Run<'a> {
    request: &'a TrainRequest,
    dir: RunDir,
    run_id: String,
    fingerprint: String,
    corpus: Corpus,
    batches: TokenBatches,
    session: Session,
    metrics: MetricsWriter,
    step: u64,
    train_loss: f64,
    clock: Clock,
    earlier_peak_rss_mb: f64,
}

impl<'a> Run<'a> {
    fn new(
        request: &'a TrainRequest,
        dir: RunDir,
        run_id: String,
        fingerprint: String,
        corpus: Corpus,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self> {
        let config = &request.config;
        let batches = TokenBatches::new(
            corpus.train.clone(),
            config.model.seq_len,
            config.train.batch_size,
            config.seed,
        )?;
        let mut session = Session::new(config, corpus.vocab_size, &request.device, request.kernels)?;
        session.set_saving(request.saving, request.kernels)?;
        let (mut step, mut train_loss, mut peak) = (0, f64::NAN, 0.0);
        let mut clock = Clock::start(0.0, 0.0);
        if let Some(checkpoint) = checkpoint {
            session.restore(checkpoint)?;
            let state = &checkpoint.state;
            (step, train_loss, peak) = (state.step, state.train_loss, state.peak_rss_mb);
            clock = Clock::start(state.wall_s, state.train_s);
        }
        if let Some(tokenizer) = &corpus.tokenizer {
            write_atomic(&dir.path().join("tokenizer.json"), tokenizer.json().as_bytes())?;
        }
        let metrics = MetricsWriter::open(&dir.metrics_path(), step)?;
        Ok(Self {
            request,
            dir,
            run_id,
            fingerprint,
            corpus,
            batches,
            session,
            metrics,
            step,
            train_loss,
            clock,
            earlier_peak_rss_mb: peak,
        })
    }

    fn train(
        mut self,
        on_event: &mut dyn FnMut(TrainEvent),
        stop: &dyn Fn() -> Option<Stop>,
    ) -> Result<Outcome> {
        let train = &self.request.config.train;
        let total = self.request.config.total_steps();
        let params = self.session.param_counts(self.corpus.vocab_size)?.total;
        on_event(TrainEvent::Started { step: self.step, total, params });
        while self.step < total {
            let stats = self.step_once()?;
            on_event(TrainEvent::Step {
                step: self.step,
                loss: stats.loss,
                tokens_per_s: self.tokens_per_s(),
            });
            if !stats.is_finite() {
                return self.end(RunStatus::Diverged, None);
            }
            let done = self.step == total;
            if !done && due(self.step, train.eval_every) {
                let val_loss = self.validate()?;
                on_event(TrainEvent::Validated { step: self.step, val_loss });
            }
            let asked = stop();
            if done || asked.is_some() || due(self.step, train.checkpoint_every) {
                self.checkpoint()?;
            }
            if let Some(stop) = asked {
                return Ok(Outcome::Interrupted { stop, step: self.step });
            }
        }
        let mut asked = None;
        let validation = self.evaluate(&self.corpus.valid, &mut |done, total| {
            on_event(TrainEvent::Evaluating { done, total });
            asked = stop();
            if asked.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match (validation, asked) {
            (Some(validation), _) => self.end(RunStatus::Finished, Some(validation)),
            (None, Some(stop)) => Ok(Outcome::Interrupted { stop, step: self.step }),
            (None, None) => bail!("internal error: the validation stopped without being asked to"),
        }
    }

    fn step_once(&mut self) -> Result<StepStats> {
        let started = Instant::now();
        let stress = &self.request.config.stress;
        let mut batch = self.batches.batch(self.step);
        if stress.is_outlier(self.step + 1) {
            batch = outlier_batch(stress, &batch);
        }
        let stats =
            self.session.step(self.step, &batch).with_context(|| format!("step {}", self.step + 1))?;
        self.clock.train_s += started.elapsed().as_secs_f64();
        self.step += 1;
        self.train_loss = stats.loss;
        self.metrics.append(&Metric::Step {
            step: self.step,
            tokens: self.tokens(),
            loss: finite(stats.loss),
            lr: stats.lr,
            grad_norm: finite(stats.grad_norm),
            loss_scale: (stats.loss_scale != 1.0).then_some(stats.loss_scale),
            skipped: stats.skipped,
            non_finite: stats.non_finite,
            wall_s: self.clock.wall_s(),
        })?;
        for seen in self.session.take_health() {
            self.metrics.append(&Metric::Health { step: self.step, tensor: HealthRow::new(&seen) })?;
        }
        for line in probe::sampled(self.step, &self.request.config, &self.session, &self.corpus.valid)? {
            self.metrics.append(&line)?;
        }
        Ok(stats)
    }

    /// Loss on the validation sequences used on the way.
    fn validate(&mut self) -> Result<f64> {
        let config = &self.request.config;
        let wanted = config.train.eval_sequences * config.model.seq_len + 1;
        let part = self.corpus.valid.prefix(wanted);
        let result = self.evaluate(&part, &mut |_, _| ControlFlow::Continue(()))?;
        let val_loss = result.map_or(f64::NAN, |result| result.loss);
        let metric =
            Metric::Eval { step: self.step, tokens: self.tokens(), val_loss, wall_s: self.clock.wall_s() };
        self.metrics.append(&metric)?;
        Ok(val_loss)
    }

    fn evaluate(
        &self,
        stream: &TokenStream,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Option<EvalResult>> {
        let model = self.session.eval_model();
        evaluate(model, stream, self.corpus.valid_bytes, model.seq_len(), self.session.device(), progress)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.metrics.sync()?;
        let state = CheckpointState {
            schema: RUN_SCHEMA,
            run_id: self.run_id.clone(),
            step: self.step,
            tokens: self.tokens(),
            updates: self.session.optimizer().updates(),
            train_loss: self.train_loss,
            wall_s: self.clock.wall_s(),
            train_s: self.clock.train_s,
            peak_rss_mb: self.peak_rss_mb(),
            loss_scale: self.session.loss_scale().state(),
            files: BTreeMap::new(),
        };
        let rest = self.session.state_tensors()?;
        Checkpoint::write(self.dir.path(), state, &self.session.weights(), &rest)?;
        Checkpoint::prune(self.dir.path(), self.request.config.train.keep_checkpoints)
    }

    fn end(self, status: RunStatus, validation: Option<EvalResult>) -> Result<Outcome> {
        let config = &self.request.config;
        let ffn = config.model.ffn.resolve(config.model.d_model)?;
        self.metrics.sync()?;
        let metrics = read_metrics(&self.dir.metrics_path())?;
        let summary = Summary {
            schema: RUN_SCHEMA,
            ffnlab: env!("CARGO_PKG_VERSION").to_owned(),
            commit: self.request.commit.clone(),
            status,
            run_id: self.run_id.clone(),
            data_fingerprint: self.fingerprint.clone(),
            ffn: ffn.name(),
            d_ff: ffn.d_ff,
            precision: self.session.precision().recipe().name.clone(),
            seed: config.seed,
            params: self.session.param_counts(self.corpus.vocab_size)?,
            flops_per_token: flops_per_token(&config.model, &ffn, self.corpus.vocab_size),
            vocab_size: self.corpus.vocab_size,
            steps: self.step,
            tokens: self.tokens(),
            train_loss: finite(self.train_loss),
            validation,
            floor: self.corpus.floor,
            diverged_at: (status == RunStatus::Diverged).then_some(self.step),
            wall_s: self.clock.wall_s(),
            tokens_per_s: self.tokens_per_s(),
            peak_rss_mb: self.peak_rss_mb(),
            threads: candle_core::utils::get_num_threads(),
            cores: cores::allowed(),
            host: host::describe(),
            skipped_steps: self.session.loss_scale().state().map_or(0, |state| state.skipped),
            non_finite: metrics.iter().map(Metric::non_finite).sum(),
            health: summarise_health(&metrics),
        };
        self.dir.write_summary(&summary)?;
        Ok(Outcome::Ended(Box::new(summary)))
    }

    fn tokens(&self) -> u64 {
        self.step * self.request.config.tokens_per_step()
    }

    fn tokens_per_s(&self) -> f64 {
        self.tokens() as f64 / self.clock.train_s.max(1e-9)
    }

    fn peak_rss_mb(&self) -> f64 {
        peak_rss_mb().max(self.earlier_peak_rss_mb)
    }
}

/// Time spent, sittings before this one included.
struct Clock {
    started: Instant,
    earlier_s: f64,
    train_s: f64,
}

impl Clock {
    fn start(earlier_s: f64, train_s: f64) -> Self {
        Self { started: Instant::now(), earlier_s, train_s }
    }

    fn wall_s(&self) -> f64 {
        self.earlier_s + self.started.elapsed().as_secs_f64()
    }
}

/// JSON has no NaN and no infinity; they are written as null.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
