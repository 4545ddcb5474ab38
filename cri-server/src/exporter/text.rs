//! The Prometheus exposition format: a header per family, a line per sample.

use std::fmt::Write;

/// The media type of the text.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's values mean.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text in the making.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family: its samples follow.
    pub(super) fn family(&mut self, name: &'static str, help: &str, kind: Kind) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A value of the family.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.sample_of("", labels, value);
    }

    /// A value of a part of the family, such as `_sum`.
    pub(super) fn sample_of(&mut self, part: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        self.text.push_str(part);
        for (index, (key, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{key}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_header_and_its_samples() {
        let mut text = Exposition::default();
        text.family("x_total", "Some", Kind::Counter);
        text.sample(&[], 2.0);
        text.sample(&[("a", "b\"c"), ("d", "e\nf")], 0.5);
        let expected =
            "# HELP x_total Some\n# TYPE x_total counter\nx_total 2\nx_total{a=\"b\\\"c\",d=\"e\\nf\"} 0.5\n";
        assert_eq!(text.finish(), expected);
    }
}
