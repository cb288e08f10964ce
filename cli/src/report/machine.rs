//! On what something was measured.

use he_core::Backend;
use serde::Serialize;

/// What figures depend on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// Model of the processor, as the system calls it.
    processor: String,
    /// Cores this process may use.
    cores: usize,
    /// Kernels that can run here, slowest first.
    backends: Vec<&'static str>,
    /// Whether this build is optimized; figures of others mean nothing.
    optimized: bool,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            processor: processor(&information).unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            backends: Backend::available().into_iter().map(Backend::name).collect(),
            optimized: !cfg!(debug_assertions),
        }
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        let Self { processor, cores, backends, optimized } = self;
        let warning = if *optimized { "" } else { "; NOT an optimized build" };
        format!("{processor}, {cores} cores, kernels {}{warning}", backends.join(" "))
    }
}

fn processor(information: &str) -> Option<&str> {
    let line = information.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named() {
        assert_eq!(processor("cpu : 0\nmodel name\t: Fast One\nx: y\n"), Some("Fast One"));
        assert_eq!(processor("cpu : 0\n"), None);
        assert!(Machine::here().summary().contains("scalar"));
    }
}
