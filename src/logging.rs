//! The log: text or JSON on standard error, with colour on a terminal.
//!
//! No secret may reach it at any level. `Secret<T>` ensures that; a test plants secrets and searches the whole trace log,
//! including the libraries' lines.

mod rate;

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use console::Term;
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{
        self, FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{Format, Json, Writer, format},
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

/// The target of lines at the level notice, which tracing does not have: what changes in a daemon's life. They are at INFO
/// for tracing, and the log shows them as NOTICE.
pub(crate) const NOTICE: &str = "keyringd::notice";

/// The span of a request. Its one field is `id`, the request's number.
pub(crate) const REQUEST: &str = "request";

/// The target of audit lines.
pub(crate) const AUDIT: &str = "audit";

/// The least severe lines in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Notice,
    Warn,
    Error,
}

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

/// A message without the numbers that the standard library adds to a system's error.
pub(crate) fn without_error_numbers(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once(" (os error ") {
        let Some((number, behind)) = after.split_once(')') else { break };
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
        plain.push_str(before);
        rest = behind;
    }
    plain + rest
}

/// Starts logging for the process, until the [`Log`] is dropped. A panic is logged with its location only: its message
/// could quote a secret.
pub(crate) fn start(level: Level, format: LineFormat) -> Log {
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
    pub fn change(&self, level: Level, format: LineFormat) {
        // Both fail only after the subscriber is gone.
        let _ = self.level.reload(filter(level));
        let _ = self.format.reload(format_layer(format, self.sink.clone()));
    }
}

/// The audit has a setting of its own, so its lines pass at every level. Libraries log what clients do wrong, and would
/// name it a warning.
fn filter(level: Level) -> Targets {
    let ours = match level {
        Level::Trace => LevelFilter::TRACE,
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Notice | Level::Warn => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    };
    let libraries = if level == Level::Trace { ours } else { ours.min(LevelFilter::ERROR) };
    let notices = if level == Level::Notice { LevelFilter::INFO } else { ours };
    Targets::new()
        .with_default(libraries)
        .with_target(OURS, ours)
        .with_target(NOTICE, notices)
        .with_target(AUDIT, LevelFilter::TRACE)
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
    let ansi = line_format == LineFormat::Text && Term::stderr().features().colors_supported();
    let layer = fmt::layer().with_writer(sink).with_ansi(ansi);
    match (line_format, is_journal()) {
        (LineFormat::Json, false) => {
            layer.event_format(OurLine { format: json(), prefix: Prefix::None, line_format }).boxed()
        }
        (LineFormat::Json, true) => {
            let json = json().without_time();
            layer.event_format(OurLine { format: json, prefix: Prefix::Priority, line_format }).boxed()
        }
        (LineFormat::Text, false) => {
            let text = format().with_ansi(ansi);
            layer.event_format(OurLine { format: text, prefix: Prefix::None, line_format }).boxed()
        }
        (LineFormat::Text, true) => {
            let text = format().with_ansi(ansi).without_time();
            layer.event_format(OurLine { format: text, prefix: Prefix::Priority, line_format }).boxed()
        }
    }
}

/// Without the spans: their fields are kept as text, which both formats share over a reload, and the library wants JSON there.
fn json() -> Format<Json> {
    format().json().flatten_event(true).with_current_span(false).with_span_list(false)
}

/// Whether standard error is systemd's journal (`JOURNAL_STREAM` of systemd.exec(5): its device and inode).
#[expect(clippy::disallowed_methods, reason = "this variable describes a descriptor, it is no setting")]
fn is_journal() -> bool {
    let file = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let here = file.and_then(|file| file.metadata()).map(|file| format!("{}:{}", file.dev(), file.ino()));
    here.is_ok_and(|here| std::env::var_os("JOURNAL_STREAM").is_some_and(|journal| journal == here.as_str()))
}

/// What a line begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    None,
    /// The priority for the journal (sd-daemon(3)), which adds the time itself.
    Priority,
}

/// A line with the level NOTICE, which tracing does not have, and with a prefix.
struct OurLine<F> {
    format: F,
    prefix: Prefix,
    line_format: LineFormat,
}

impl<S, N, F> FormatEvent<S, N> for OurLine<F>
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
        let is_notice = event.metadata().target() == NOTICE;
        if self.prefix == Prefix::Priority {
            let priority = match *event.metadata().level() {
                tracing::Level::ERROR => 3,
                tracing::Level::WARN => 4,
                tracing::Level::INFO if is_notice => 5,
                tracing::Level::INFO => 6,
                tracing::Level::DEBUG | tracing::Level::TRACE => 7,
            };
            write!(line, "<{priority}>")?;
        }
        let request = request(context).filter(|_| self.line_format == LineFormat::Json);
        if !is_notice && request.is_none() {
            return self.format.format_event(context, line, event);
        }
        let mut text = String::new();
        self.format.format_event(context, Writer::new(&mut text), event)?;
        if let Some(number) = request {
            text = text.replacen('{', &format!("{{\"request\":{number},"), 1);
        }
        line.write_str(&if is_notice { as_notice(&text) } else { text })
    }
}

/// The number of the request that a line belongs to. In text, the span with it is part of the line.
fn request<S, N>(context: &FmtContext<'_, S, N>) -> Option<u64>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let span = context.event_scope()?.find(|span| span.name() == REQUEST)?;
    let extensions = span.extensions();
    extensions.get::<FormattedFields<N>>()?.fields.strip_prefix("id=")?.parse().ok()
}

/// The line of an event at NOTICE, from that at INFO. Level and target come before all that the event has.
fn as_notice(line: &str) -> String {
    line.replacen(" INFO", "NOTICE", 1).replacen("\"INFO\"", "\"NOTICE\"", 1).replacen(NOTICE, OURS, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_has_its_level_and_our_target() {
        assert_eq!(
            as_notice("2026-11-28T00:00:00Z  INFO keyringd::notice: active key INFO"),
            "2026-11-28T00:00:00Z NOTICE keyringd: active key INFO"
        );
        assert_eq!(
            as_notice(r#"{"level":"INFO","message":"m","target":"keyringd::notice"}"#),
            r#"{"level":"NOTICE","message":"m","target":"keyringd"}"#
        );
    }

    #[test]
    fn messages_have_no_error_numbers() {
        let text = "cannot open a: No such file (os error 2); b: Denied (os error 13)";
        assert_eq!(without_error_numbers(text), "cannot open a: No such file; b: Denied");
        assert_eq!(without_error_numbers("an (os error x) of no number"), "an (os error x) of no number");
    }

    #[test]
    fn at_notice_there_are_notices_and_no_information() {
        let enabled = |level, target| filter(level).would_enable(target, &tracing::Level::INFO);
        assert!(enabled(Level::Notice, NOTICE) && !enabled(Level::Notice, "keyringd::vault"));
        assert!(enabled(Level::Info, NOTICE) && enabled(Level::Info, "keyringd::vault"));
        assert!(!enabled(Level::Warn, NOTICE) && enabled(Level::Error, AUDIT));
    }
}
