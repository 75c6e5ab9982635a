//! The processor's energy counters, as Linux's power capping framework shows them.
//!
//! A counter knows no processes: it counts what the whole package used, idle power and neighbours
//! included. Since kernel 5.10 it is readable by root only.

use std::path::{Path, PathBuf};

/// The counters of all packages of this machine.
#[derive(Debug)]
pub(super) struct Counter(Vec<Package>);

#[derive(Debug)]
struct Package {
    energy: PathBuf,
    /// Microjoules after which it begins again at 0.
    range: u64,
}

impl Counter {
    /// None where there is no package, or one of them cannot be read.
    pub(super) fn open(powercap: &Path) -> Option<Self> {
        let zones = std::fs::read_dir(powercap).ok()?.filter_map(Result::ok);
        let mut packages = Vec::new();
        for zone in zones.map(|entry| entry.path()) {
            // `intel-rapl:0` is a package or the whole platform, which contains the packages; `intel-rapl:0:1` a part
            // of a package. AMD's processors are there under the same name.
            let name = zone.file_name()?.to_str()?.to_owned();
            let whole = name.starts_with("intel-rapl:") && name.matches(':').count() == 1;
            let domain = std::fs::read_to_string(zone.join("name")).unwrap_or_default();
            if whole && domain.starts_with("package") {
                packages.push(Package {
                    range: number(&zone.join("max_energy_range_uj"))?,
                    energy: zone.join("energy_uj"),
                });
            }
        }
        let counter = Self(packages);
        (!counter.0.is_empty() && counter.read().is_some()).then_some(counter)
    }

    /// Microjoules by package.
    pub(super) fn read(&self) -> Option<Vec<u64>> {
        self.0.iter().map(|package| number(&package.energy)).collect()
    }

    /// What all packages used between two readings; none where nothing was counted.
    pub(super) fn joules(&self, before: &[u64], after: &[u64]) -> Option<f64> {
        let used = self.0.iter().zip(before.iter().zip(after));
        let microjoules: u64 = used
            .map(|(package, (before, after))| match after.checked_sub(*before) {
                Some(used) => used,
                None => package.range.saturating_sub(*before) + after,
            })
            .sum();
        (microjoules > 0).then_some(microjoules as f64 / 1e6)
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(root: &Path, folder: &str, name: &str, energy: &str) {
        let zone = root.join(folder);
        std::fs::create_dir_all(&zone).unwrap();
        let files = [
            ("name", name),
            ("energy_uj", energy),
            ("max_energy_range_uj", "1000\n"),
        ];
        for (file, text) in files {
            std::fs::write(zone.join(file), text).unwrap();
        }
    }

    #[test]
    fn packages_are_counted_once_and_over_the_end_of_their_range() {
        let root = tempfile::tempdir().unwrap();
        zone(root.path(), "intel-rapl:0", "package-0\n", "990\n");
        zone(root.path(), "intel-rapl:0:0", "core\n", "500\n");
        zone(root.path(), "intel-rapl:1", "psys\n", "700\n");
        zone(root.path(), "dtpm", "package-0\n", "700\n");
        let counter = Counter::open(root.path()).unwrap();
        let before = counter.read().unwrap();
        assert_eq!(before, [990]);
        zone(root.path(), "intel-rapl:0", "package-0\n", "30\n");
        let after = counter.read().unwrap();
        assert_eq!(counter.joules(&before, &after), Some(40e-6));
        assert_eq!(counter.joules(&after, &after), None, "it did not tick");
    }

    #[test]
    fn two_packages_are_summed() {
        let root = tempfile::tempdir().unwrap();
        zone(root.path(), "intel-rapl:0", "package-0", "1");
        zone(root.path(), "intel-rapl:1", "package-1", "1");
        let counter = Counter::open(root.path()).unwrap();
        assert_eq!(counter.joules(&[10, 20], &[11, 22]), Some(3e-6));
    }

    #[test]
    fn what_cannot_be_read_is_no_counter() {
        let root = tempfile::tempdir().unwrap();
        assert!(Counter::open(&root.path().join("absent")).is_none());
        assert!(Counter::open(root.path()).is_none());
        zone(root.path(), "intel-rapl:0", "package-0", "not a number");
        assert!(Counter::open(root.path()).is_none());
    }
}
