//! All that a check remembers of the lines it has read.

use std::collections::HashMap;
use std::sync::Arc;

use super::c2d::C2d;
use super::files::Ends;
use super::memory::Memory;
use super::methods::Methods;
use super::telemetry::Telemetry;
use super::twins::{Desired, Reported};
use super::verdict::{Topic, Verdict};
use crate::history::{Kind, Line};

#[derive(Default)]
pub struct State {
    numbers: HashMap<Arc<str>, u32>,
    /// By number.
    names: Vec<Arc<str>>,
    telemetry: Telemetry,
    reported: Reported,
    desired: Desired,
    c2d: C2d,
    methods: Methods,
    memory: Memory,
    verdict: Verdict,
}

impl State {
    /// Takes a line of this file. Lines of one file come in their order, and files one after the
    /// other.
    pub fn take(&mut self, file: u32, line: &Line<'_>) {
        let device = self.number(line.device);
        let (memory, verdict) = (&mut self.memory, &mut self.verdict);
        match Topic::of(&line.kind) {
            Topic::Connections => verdict.connections += u64::from(line.kind == Kind::Connect),
            Topic::Telemetry => self.telemetry.take((file, device), line, memory, verdict),
            Topic::Reported => self.reported.take(device, line, memory, verdict),
            Topic::Desired => self.desired.take(device, line, memory, verdict),
            Topic::C2d | Topic::Feedback => self.c2d.take((file, device), line, memory, verdict),
            Topic::Methods => self.methods.take(device, line, memory, verdict),
        }
    }

    fn number(&mut self, device: &str) -> u32 {
        if let Some(number) = self.numbers.get(device) {
            return *number;
        }
        let name: Arc<str> = device.into();
        let number = u32::try_from(self.names.len()).expect("fewer devices than 2^32");
        // Twice the place in both lists, because they grow, and the text with its counters.
        self.memory.add(2 * size_of::<(Arc<str>, u32, Arc<str>)>() + device.len() + 24);
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }

    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Once every line was taken.
    pub fn finish(self, ends: Ends) -> Verdict {
        let Self { names, telemetry, reported, desired, c2d, methods, mut verdict, .. } = self;
        let whole = ends.cut == 0;
        telemetry.finish(&names, whole, &mut verdict);
        reported.finish(&names, &mut verdict);
        desired.finish(&names, &mut verdict);
        c2d.finish(&names, whole, ends.drained, &mut verdict);
        methods.finish(&names, whole, &mut verdict);
        verdict
    }
}
