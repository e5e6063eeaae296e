//! The log: to standard error, as text or JSON, with colour on a terminal alone.
//!
//! Nothing secret may reach it at any level. That is held by `Secret<T>` and by a test that plants secrets and reads the
//! whole log at trace level, libraries included.

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

type Form = Box<dyn Layer<Layered<reload::Layer<Targets, Registry>, Registry>> + Send + Sync>;

/// The target of the audit's lines.
pub const AUDIT: &str = "audit";

/// The log's level and form, which can change while it runs.
pub struct Log {
    level: Handle<Targets, Registry>,
    form: Handle<Form, Layered<reload::Layer<Targets, Registry>, Registry>>,
    sink: Sink,
    /// Dropped, it waits a moment for what is still to be written.
    _queue: Option<WorkerGuard>,
}

/// Starts logging for the whole process, until the [`Log`] is dropped. Panics are logged by their place alone: their text
/// could quote anything.
pub fn start(level: LevelFilter, json: bool) -> Log {
    let (sink, queue) = Sink::to_standard_error();
    let (level, level_handle) = reload::Layer::new(filter(level));
    let (form, form_handle) = reload::Layer::new(form(json, sink.clone()));
    // Only the first of several starts in one process can win, as in tests.
    let _ = tracing_subscriber::registry().with(level).with(form).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a panic: this is a defect of keyringd, please report it");
    }));
    Log { level: level_handle, form: form_handle, sink, _queue: queue }
}

impl Log {
    pub fn change(&self, level: LevelFilter, json: bool) {
        // They fail only when logging has ended.
        let _ = self.level.reload(filter(level));
        let _ = self.form.reload(form(json, self.sink.clone()));
    }
}

/// Messages from this level on, and the audit at any: which requests it tells of is a setting of its own.
fn filter(level: LevelFilter) -> Targets {
    Targets::new().with_default(level).with_target(AUDIT, LevelFilter::TRACE)
}

/// Standard error, which may be a full disk or a reader that went away: then lines are lost, and serving goes on.
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

/// Where lines go. A pipe, a terminal or a socket may stall, and must not make the daemon stall: a thread writes to it, and
/// lines that come faster than it takes them are lost. A file does not stall, and has each line at once.
#[derive(Clone)]
enum Sink {
    File,
    Queue(NonBlocking),
}

impl Sink {
    fn to_standard_error() -> (Self, Option<WorkerGuard>) {
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

fn form(json: bool, sink: Sink) -> Form {
    let journal = is_the_journal();
    let text = fmt::layer().with_writer(sink).with_ansi(!json && io::stderr().is_terminal());
    match (json, journal) {
        (true, false) => text.json().flatten_event(true).boxed(),
        (true, true) => {
            text.event_format(WithPriority(format().json().flatten_event(true).without_time())).boxed()
        }
        (false, false) => text.boxed(),
        (false, true) => text.event_format(WithPriority(format().without_time())).boxed(),
    }
}

/// Whether standard error is systemd's journal (`JOURNAL_STREAM` of systemd.exec(5): its device and inode).
#[expect(
    clippy::disallowed_methods,
    reason = "this variable says something of a descriptor, and nothing of the settings"
)]
fn is_the_journal() -> bool {
    let file = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let here = file.and_then(|file| file.metadata()).map(|file| format!("{}:{}", file.dev(), file.ino()));
    here.is_ok_and(|here| std::env::var_os("JOURNAL_STREAM").is_some_and(|journal| journal == here.as_str()))
}

/// Lines with the priority that the journal reads off them (sd-daemon(3)); it has the time by itself.
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
