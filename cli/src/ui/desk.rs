//! One run at a time, and those that are over.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use axum::http::StatusCode;
use ndarray::Array2;
use nn_poly::import::Dataset;
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::Plan;
use protocol::client::Endpoint;
use protocol::runner::{RunOptions, RunProgress, Silent};
use serde::Serialize;
use tokio::task::{AbortHandle, JoinError};

use super::intake::{Refusal, Samples};
use crate::pipeline::inference::{self, Run, RunSettings};
use crate::pipeline::recording::Recorder;
use crate::pipeline::servers::Visitor;
use crate::report::distribution::{Distribution, SHOWN};
use crate::report::drawing::Drawing;
use crate::report::predictions::Predictions;
use crate::report::view::{
    self, FaultView, Finished, PredictionsView, RoundView, RunView, Sheet, Tone,
};

/// Runs that are remembered.
const MAX_PAST: usize = 50;

/// Where runs take place.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) visitor: Visitor,
    pub(crate) servers: Vec<Endpoint>,
    /// In words.
    pub(crate) place: String,
    /// Whether that is another process, which then sees ciphertexts only.
    pub(crate) is_elsewhere: bool,
}

/// A server whose honesty the page can switch off: that of the demonstration only.
pub(crate) trait Tampering: Send + Sync {
    /// Ways to cheat: a name for programs, and one for people.
    fn kinds(&self) -> Vec<(&'static str, &'static str)>;
    /// The way in force, and the segment.
    fn current(&self) -> (&'static str, usize);
    /// Cheat in this way from the next request on.
    ///
    /// # Errors
    /// A way or a segment that does not exist, or that has nothing to change.
    fn choose(&self, kind: &str, segment: usize) -> Result<()>;
}

/// What becomes of evidence.
#[derive(Debug)]
pub(crate) enum EvidencePlace {
    /// It is not kept.
    Nowhere,
    /// It is judged and thrown away.
    Moment(tempfile::TempDir),
    /// It stays.
    Folder(PathBuf),
}

impl EvidencePlace {
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Nowhere => None,
            Self::Moment(folder) => Some(folder.path()),
            Self::Folder(path) => Some(path),
        }
    }
}

/// Everything runs of the page share.
pub(crate) struct Desk {
    pub(crate) plan: Plan,
    pub(crate) reach: Reach,
    pub(crate) settings: RunSettings,
    /// To try, and to draw canaries from.
    pub(crate) examples: Option<Dataset>,
    pub(crate) evidence: EvidencePlace,
    pub(crate) tampering: Option<Arc<dyn Tampering>>,
    /// Held while the server learns how to cheat: the last choice stays, however long others take.
    pub(super) choosing: Arc<tokio::sync::Mutex<()>>,
    /// Samples that the smallest block holds.
    n_places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    n_begun: u64,
    current: Option<Current>,
    /// The last one first.
    past: VecDeque<Past>,
}

struct Current {
    id: u64,
    n_samples: usize,
    source: String,
    input: Option<Drawing>,
    /// Drawn once: it does not change.
    ciphertext: Arc<OnceLock<Drawing>>,
    recorder: Arc<Recorder>,
    started: Instant,
    task: AbortHandle,
}

struct Past {
    id: u64,
    n_samples: usize,
    source: String,
    ended: Ended,
}

enum Ended {
    Judged(Arc<RunView>),
    Failed(String),
    Cancelled,
}

/// What the page knows before any run.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    plan: String,
    security_bits: u32,
    place: String,
    is_elsewhere: bool,
    /// Axes of a sample.
    shape: Vec<usize>,
    n_places: usize,
    n_examples: usize,
    n_segments: usize,
    /// Only where a server can be made to cheat.
    tampering: Vec<(&'static str, &'static str)>,
}

/// What goes on.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    running: Option<Running>,
    past: Vec<PastView>,
    tampering: Option<(&'static str, usize)>,
}

#[derive(Debug, Serialize)]
struct Running {
    id: u64,
    n_samples: usize,
    source: String,
    seconds: f64,
    input: Option<Drawing>,
    ciphertext: Option<Drawing>,
    rounds: Vec<RoundView>,
}

#[derive(Debug, Serialize)]
struct PastView {
    id: u64,
    n_samples: usize,
    source: String,
    tone: Tone,
    headline: String,
    /// What a single sample was taken for.
    label: Option<String>,
    n_receipts: usize,
    /// Whether there is a page to show.
    is_judged: bool,
}

impl Desk {
    /// A desk for a plan and servers that hold it.
    ///
    /// # Errors
    /// Settings that leave no room for samples; examples of another shape.
    pub(crate) fn new(
        plan: Plan,
        reach: Reach,
        settings: RunSettings,
        examples: Option<Dataset>,
        evidence: EvidencePlace,
        tampering: Option<Arc<dyn Tampering>>,
    ) -> Result<Arc<Self>> {
        let blank = Array2::zeros((1, plan.public().input_shape.len()));
        let blank = plan.public().quantize(&blank)?;
        let client_plan =
            inference::prepare(&plan, &settings, |count| inference::draw_canaries(&blank, count))?;
        let n_places = client_plan.samples_per_block().into_iter().min().unwrap_or(1);
        Ok(Arc::new(Self {
            plan,
            reach,
            settings,
            examples,
            evidence,
            tampering,
            choosing: Arc::default(),
            n_places,
            state: Mutex::default(),
        }))
    }

    /// What the page knows before any run.
    pub(super) fn facts(&self) -> Facts {
        let public = self.plan.public();
        Facts {
            plan: public.name.clone(),
            security_bits: public.security_bits,
            place: self.reach.place.clone(),
            is_elsewhere: self.reach.is_elsewhere,
            shape: public.input_shape.dims().to_vec(),
            n_places: self.n_places,
            n_examples: self.examples.as_ref().map_or(0, Dataset::n_samples),
            n_segments: public.segments.len(),
            tampering: self.tampering.as_ref().map_or_else(Vec::new, |server| server.kinds()),
        }
    }

    /// What goes on right now.
    ///
    /// # Errors
    /// Only broken invariants.
    pub(super) fn status(&self) -> Result<Status> {
        let state = self.state();
        let past = state.past.iter().map(Past::view).collect();
        let current = state.current.as_ref().map(|current| {
            let Current { id, n_samples, started, .. } = *current;
            let (source, input) = (current.source.clone(), current.input.clone());
            let watched = (Arc::clone(&current.recorder), Arc::clone(&current.ciphertext));
            ((id, n_samples, started, source, input), watched)
        });
        drop(state);
        let running =
            current.map(|((id, n_samples, started, source, input), (recorder, drawn))| {
                let record = recorder.record();
                let ciphertext = match drawn.get() {
                    Some(drawing) => Some(drawing.clone()),
                    None => view::ciphertext(&record)?.map(|new| drawn.get_or_init(|| new).clone()),
                };
                anyhow::Ok(Running {
                    id,
                    n_samples,
                    source,
                    seconds: started.elapsed().as_secs_f64(),
                    input,
                    ciphertext,
                    rounds: view::rounds(self.plan.public(), &record),
                })
            });
        let tampering = self.tampering.as_ref().map(|server| server.current());
        Ok(Status { running: running.transpose()?, past, tampering })
    }

    /// Begin a run; gives its number.
    ///
    /// # Errors
    /// Another one is under way; samples that are not the plan's.
    pub(super) fn begin(self: &Arc<Self>, samples: Samples) -> Result<u64, Refusal> {
        let inputs = self
            .plan
            .public()
            .quantize(&samples.features)
            .context("these samples do not fit the plan")?;
        let input = self.picture(&samples)?;
        let mut state = self.state();
        if state.current.is_some() {
            let text = "a batch is under way: wait for its verdict, or cancel it";
            return Err(Refusal::new(StatusCode::CONFLICT, text));
        }
        state.n_begun += 1;
        let id = state.n_begun;
        let (n_samples, source) = (inputs.ncols(), samples.source.clone());
        let recorder = Recorder::new(&self.plan, Arc::new(Silent));
        let run = tokio::spawn(Arc::clone(self).classify(samples, inputs, Arc::clone(&recorder)));
        let (task, started) = (run.abort_handle(), Instant::now());
        let ciphertext = Arc::default();
        let current = Current { id, n_samples, source, input, ciphertext, recorder, started, task };
        state.current = Some(current);
        drop(state);
        let desk = Arc::clone(self);
        tokio::spawn(async move { desk.end(run.await) });
        Ok(id)
    }

    /// End the run under way, if there is one. One that is rejected already comes to its verdict.
    pub(super) fn cancel(&self) {
        if let Some(current) = &self.state().current
            && !current.recorder.is_rejected()
        {
            current.task.abort();
        }
    }

    /// A run that was judged.
    pub(super) fn view(&self, id: u64) -> Option<Arc<RunView>> {
        let state = self.state();
        match &state.past.iter().find(|past| past.id == id)?.ended {
            Ended::Judged(view) => Some(Arc::clone(view)),
            Ended::Failed(_) | Ended::Cancelled => None,
        }
    }

    /// A panic while the state was held leaves it usable: at worst a number is left out, or a run that is
    /// over is forgotten.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, result: Result<Result<RunView>, JoinError>) {
        let ended = match result {
            Ok(Ok(view)) => Ended::Judged(Arc::new(view)),
            Ok(Err(error)) => Ended::Failed(format!("{error:#}")),
            Err(error) if error.is_cancelled() => Ended::Cancelled,
            Err(_) => Ended::Failed("internal error, please report".to_owned()),
        };
        let mut state = self.state();
        if let Some(Current { id, n_samples, source, .. }) = state.current.take() {
            state.past.push_front(Past { id, n_samples, source, ended });
            state.past.truncate(MAX_PAST);
        }
    }

    async fn classify(
        self: Arc<Self>,
        samples: Samples,
        inputs: IntegerMatrix,
        recorder: Arc<Recorder>,
    ) -> Result<RunView> {
        let (client_plan, inputs) = self
            .blocking(move |desk| {
                let pool = desk
                    .examples
                    .as_ref()
                    .map(|examples| desk.plan.public().quantize(examples.features()))
                    .transpose()?;
                let pool = pool.as_ref().unwrap_or(&inputs);
                let draw = |count| inference::draw_canaries(pool, count);
                Ok((inference::prepare(&desk.plan, &desk.settings, draw)?, inputs))
            })
            .await?;
        let Reach { visitor, servers, .. } = &self.reach;
        let remote = visitor.client(servers.clone(), RunOptions::default().connections)?;
        let watcher: Arc<dyn RunProgress> = recorder.clone();
        let evidence = self.evidence.path();
        let run = inference::run_prepared(&client_plan, &inputs, &remote, &watcher, evidence).await;
        remote.close().await;
        let run = run?;
        self.blocking(move |desk| desk.describe(&samples, &inputs, &run, &recorder)).await
    }

    /// Work that keeps a processor busy, off the asynchronous threads.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let desk = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&desk))
            .await
            .context("a worker thread panicked")?
    }

    /// The run in pictures and words.
    pub(super) fn describe(
        &self,
        samples: &Samples,
        inputs: &IntegerMatrix,
        run: &Run,
        recorder: &Recorder,
    ) -> Result<RunView> {
        let public = self.plan.public();
        let n_samples = run.n_samples;
        let (mut predictions, mut is_contradicted) = (None, false);
        if let Some(released) = &run.scores {
            is_contradicted = self.plan.simulate(inputs)?.scores != released.scores;
            let mut distribution = Distribution::default();
            distribution.add(&Predictions {
                scores: &released.scores,
                out_of_calibration: &released.out_of_calibration,
                labels: samples.labels.as_deref(),
            });
            let first = samples.features.outer_iter().take(SHOWN);
            let features: Vec<Vec<f32>> = first.map(|row| row.to_vec()).collect();
            let n_out = released.out_of_calibration.iter().filter(|&&flag| flag).count();
            let sheet = Sheet { plan: public, features: &features, n_out_of_calibration: n_out };
            predictions = Some(PredictionsView::new(&distribution, sheet)?);
        }
        RunView::new(Finished {
            plan: &self.plan,
            place: self.reach.place.clone(),
            source: samples.source.clone(),
            room: view::room(n_samples, self.n_places),
            run,
            record: &recorder.record(),
            is_contradicted,
            is_compared: run.scores.is_some(),
            predictions,
            faults: self.faults(run),
            input: self.picture(samples)?,
        })
    }

    fn picture(&self, samples: &Samples) -> Result<Option<Drawing>> {
        let first = samples.features.outer_iter().next().map(|row| row.to_vec());
        let dims = self.plan.public().input_shape.dims();
        Drawing::of_sample(dims, &first.unwrap_or_default(), "The first sample")
    }

    /// What the evidence shows. The verdict stands without it: what cannot be judged is left out.
    fn faults(&self, run: &Run) -> Vec<FaultView> {
        let mut faults = Vec::new();
        for path in &run.evidence {
            let fault = FaultView::or_warning(path, &self.plan);
            let file = match &self.evidence {
                EvidencePlace::Folder(_) => Some(path.display().to_string()),
                EvidencePlace::Moment(_) | EvidencePlace::Nowhere => {
                    if let Err(error) = std::fs::remove_file(path) {
                        tracing::warn!(%error, "evidence cannot be removed");
                    }
                    None
                }
            };
            faults.extend(fault.map(|fault| FaultView { file, ..fault }));
        }
        faults
    }
}

impl Past {
    fn view(&self) -> PastView {
        let (tone, headline, label, n_receipts) = match &self.ended {
            Ended::Judged(view) => {
                let shown = view.predictions.as_ref().map(|predictions| &predictions.shown);
                let label = match shown.map(Vec::as_slice) {
                    Some([sample]) => Some(sample.label.clone()),
                    _ => None,
                };
                let headline = view.verdict.headline.to_owned();
                (view.verdict.tone, headline, label, view.receipts.n_receipts)
            }
            Ended::Failed(error) => (Tone::Doubtful, format!("Failed: {error}"), None, 0),
            Ended::Cancelled => (Tone::Doubtful, "Cancelled".to_owned(), None, 0),
        };
        PastView {
            id: self.id,
            n_samples: self.n_samples,
            source: self.source.clone(),
            tone,
            headline,
            label,
            n_receipts,
            is_judged: matches!(self.ended, Ended::Judged(_)),
        }
    }
}
