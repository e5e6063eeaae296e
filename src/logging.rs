//! The log: text or JSON on standard error, with colour on a terminal.
//!
//! No secret may reach it at any level. `Secret<T>` ensures that; a test plants secrets and searches the whole trace log,
//! including the libraries' lines.

mod rate;

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{
        self, FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{Writer, format},
    },
    layer::{Layered, SubscriberExt as _},
    registry::LookupSpan,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use rate::RateLimit;

type FormatLayer = Box<dyn Layer<Layered<reload::Layer<Targets, Registry>, Registry>> + Send + Sync>;

/// The target of all other lines of this program.
const OURS: &str = env!("CARGO_PKG_NAME");

/// The target of audit lines.
pub(crate) const AUDIT: &str = "audit";

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    Text,
    Json,
}

/// A handle to change the level and the format at run time.
pub struct Log {
    level: Handle<Targets, Registry>,
    format: Handle<FormatLayer, Layered<reload::Layer<Targets, Registry>, Registry>>,
    sink: Sink,
    /// On drop it flushes the queue, with a timeout.
    _queue: Option<WorkerGuard>,
}

/// Starts logging for the process, until the [`Log`] is dropped. A panic is logged with its location only: its message
/// could quote a secret.
pub(crate) fn start(level: LevelFilter, format: LineFormat) -> Log {
    let (sink, queue) = Sink::from_standard_error();
    let (level, level_handle) = reload::Layer::new(filter(level));
    let (layer, format_handle) = reload::Layer::new(format_layer(format, sink.clone()));
    // In tests several starts share one process; the first wins.
    let _ = tracing_subscriber::registry().with(level).with(layer).with(RateLimit::default()).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic: this is a defect of keyringd, please report it");
    }));
    Log { level: level_handle, format: format_handle, sink, _queue: queue }
}

impl Log {
    pub fn change(&self, level: LevelFilter, format: LineFormat) {
        // Both fail only after the subscriber is gone.
        let _ = self.level.reload(filter(level));
        let _ = self.format.reload(format_layer(format, self.sink.clone()));
    }
}

/// The audit has a setting of its own, so its lines pass at every level. Libraries log what clients do wrong, and would
/// name it a warning.
fn filter(level: LevelFilter) -> Targets {
    let libraries = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::ERROR) };
    Targets::new().with_default(libraries).with_target(OURS, level).with_target(AUDIT, LevelFilter::TRACE)
}

/// Ignores write errors, such as a full disk or a closed pipe: logging must not stop the daemon.
struct Lossy(io::Stderr);

impl io::Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// A pipe, a terminal or a socket may block, so a thread writes to it and drops lines when its queue is full. A file does
/// not block, and receives each line at once.
#[derive(Clone)]
enum Sink {
    File,
    Queue(NonBlocking),
}

impl Sink {
    fn from_standard_error() -> (Self, Option<WorkerGuard>) {
        let file = io::stderr().as_fd().try_clone_to_owned().map(File::from);
        if file.and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.is_file()) {
            return (Self::File, None);
        }
        let (queue, guard) = NonBlockingBuilder::default().lossy(true).finish(Lossy(io::stderr()));
        (Self::Queue(queue), Some(guard))
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Box<dyn io::Write + 'a>;

    fn make_writer(&'a self) -> Self::Writer {
        match self {
            Self::File => Box::new(Lossy(io::stderr())),
            Self::Queue(queue) => Box::new(queue.clone()),
        }
    }
}

fn format_layer(line_format: LineFormat, sink: Sink) -> FormatLayer {
    let ansi = line_format == LineFormat::Text && io::stderr().is_terminal();
    let layer = fmt::layer().with_writer(sink).with_ansi(ansi);
    match (line_format, is_journal()) {
        (LineFormat::Json, false) => layer.json().flatten_event(true).boxed(),
        (LineFormat::Json, true) => {
            layer.event_format(WithPriority(format().json().flatten_event(true).without_time())).boxed()
        }
        (LineFormat::Text, false) => layer.boxed(),
        (LineFormat::Text, true) => layer.event_format(WithPriority(format().without_time())).boxed(),
    }
}

/// Whether standard error is systemd's journal (`JOURNAL_STREAM` of systemd.exec(5): its device and inode).
#[expect(clippy::disallowed_methods, reason = "this variable describes a descriptor, it is no setting")]
fn is_journal() -> bool {
    let file = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let here = file.and_then(|file| file.metadata()).map(|file| format!("{}:{}", file.dev(), file.ino()));
    here.is_ok_and(|here| std::env::var_os("JOURNAL_STREAM").is_some_and(|journal| journal == here.as_str()))
}

/// Prefixes each line with its priority for the journal (sd-daemon(3)), which adds the time itself.
struct WithPriority<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(line, "<{priority}>")?;
        self.0.format_event(context, line, event)
    }
}
