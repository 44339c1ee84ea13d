//! The run directory: plain files, each whole or absent.
//!
//! ```text
//! RUN/config.toml            resolved config, every key
//!     metrics.jsonl          one line per step and validation
//!     summary.json           what it came to; absent until the run has ended
//!     tokenizer.json         the tokenizer, loadable by Hugging Face
//!     checkpoints/step-N/    model.safetensors, optimizer.safetensors, state.json
//! ```

mod atomic;
mod checkpoint;
mod health;
mod metrics;
mod run_dir;
mod summary;

pub use atomic::{sync_folder, write_atomic, write_atomic_with};
pub use checkpoint::{Checkpoint, CheckpointState, read_tensors, write_tensors};
pub use health::{HealthRow, HealthSummary, summarise_health};
pub use metrics::{Metric, MetricsWriter, read_metrics};
pub use run_dir::{Existing, RunDir};
pub use summary::{EvalResult, ParamCounts, RUN_SCHEMA, RunStatus, Summary};

/// For counts that need not be written while there is nothing to count.
pub(crate) fn is_zero(count: &u64) -> bool {
    *count == 0
}
