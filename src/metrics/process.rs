//! The `process_*` metrics of Prometheus' client libraries, from `/proc/self` (proc(5)).

use std::{fmt::Write as _, fs};

use nix::unistd::{SysconfVar, sysconf};

/// The fields of `/proc/self/stat` behind the name of the command, counted from 0.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const START_TICKS: usize = 19;
const VIRTUAL_BYTES: usize = 20;
const RESIDENT_PAGES: usize = 21;

/// The lines of all that can be read; none without `/proc`.
pub(super) fn text() -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let series = if kind == "counter" { "_total" } else { "" };
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{series} {value}\n");
        }
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let ticks = system(SysconfVar::CLK_TCK);
    let seconds = |field: Option<f64>| Some(field? / ticks?);
    let cpu = field(USER_TICKS).zip(field(SYSTEM_TICKS)).map(|(user, system)| user + system);
    metric(
        "process_cpu_seconds",
        "counter",
        "Processor time in user and system mode, in seconds.",
        seconds(cpu),
    );
    let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    metric("process_open_fds", "gauge", "Open file descriptors.", open.and_then(number));
    metric("process_max_fds", "gauge", "The limit on open file descriptors.", max_descriptors());
    let resident = field(RESIDENT_PAGES).zip(system(SysconfVar::PAGE_SIZE)).map(|(pages, size)| pages * size);
    metric("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", resident);
    metric("process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.", field(VIRTUAL_BYTES));
    let started = seconds(field(START_TICKS)).zip(boot_time()).map(|(after, boot)| boot + after);
    metric(
        "process_start_time_seconds",
        "gauge",
        "The start of the process, in seconds since 1970.",
        started,
    );
    text
}

fn system(variable: SysconfVar) -> Option<f64> {
    sysconf(variable).ok().flatten().and_then(number)
}

/// Precise up to 2^52, which no count here reaches.
fn number(count: impl TryInto<i32>) -> Option<f64> {
    count.try_into().ok().map(f64::from)
}

fn max_descriptors() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// In seconds since 1970.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_values_are_those_of_this_process() {
        let text = text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-5.0..100_000.0).contains(&age), "{age}");
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") >= value("process_open_fds"));
        let resident = value("process_resident_memory_bytes");
        assert!(resident > 1e6 && resident < value("process_virtual_memory_bytes"), "{text}");
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
