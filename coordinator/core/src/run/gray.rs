//! Servers that look alive and answer far slower than the others of their teacher: students ask them
//! less by what they measure themselves, and somebody should look at them.

use std::collections::BTreeMap;

use super::{Kind, Run};
use crate::ids::Millis;

/// As slow as this, or as fast as this again, beside the fastest.
const SLOW: f64 = 0.25;
const FAST: f64 = 0.5;

impl Run {
    /// Says when a server has become slow, or has recovered. What counts is how fast it answers as its
    /// students measure it: what a process says of itself leaves out the time in which it stood still.
    pub(super) fn compare_servers(&mut self, now: Millis) {
        if now.since(self.compared) < self.spec.heartbeat {
            return;
        }
        self.compared = now;
        if self.teachers.iter().all(|t| t.servers.len() < 2) {
            return;
        }
        let rates = self.answer_rates();
        let mut said = Vec::new();
        for teacher in &mut self.teachers {
            let measured = teacher.servers.values().filter_map(|s| rates.get(&s.address));
            let best = measured.copied().fold(0.0, f64::max);
            for (worker, server) in &mut teacher.servers {
                let Some(rate) = rates.get(&server.address) else {
                    continue;
                };
                let slow = rate / best < if server.slow { FAST } else { SLOW };
                if slow != server.slow {
                    server.slow = slow;
                    let how = if slow { "is slow" } else { "has recovered" };
                    said.push(format!(
                        "teacher {}: server {worker} {how}: {rate:.0} samples/s, the fastest {best:.0}",
                        teacher.spec.name
                    ));
                }
            }
        }
        for text in said {
            self.event(now, Kind::Member, text);
        }
    }

    /// Samples per second by server address: the median of its students'.
    fn answer_rates(&self) -> BTreeMap<String, f64> {
        let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for member in self.members.values() {
            for (address, rate) in &member.heartbeat.answers {
                all.entry(address).or_default().push(*rate);
            }
        }
        let median = |mut rates: Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[(rates.len() - 1) / 2]
        };
        all.into_iter()
            .map(|(address, rates)| (address.to_owned(), median(rates)))
            .collect()
    }
}
