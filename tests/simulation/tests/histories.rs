//! The checker itself: it repeats itself, finds what is planted, and finds nothing else.

use retort_simulation::{Options, Plant, history};

/// Histories that hold, in this test; `.ci/run` plays many more.
const SEEDS: u64 = 200;
/// A planted bug shows within this many.
const PLANTED: u64 = 1_000;

fn options(seed: u64, plant: Option<Plant>) -> Options {
    Options {
        seed,
        plant,
        verbose: false,
        print: |_| (),
    }
}

#[test]
fn nothing_is_violated() {
    for seed in 0..SEEDS {
        if let Err(failure) = history(options(seed, None)) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_is_one_history() {
    for seed in [3, 14, 15] {
        assert_eq!(history(options(seed, None)), history(options(seed, None)));
    }
}

#[test]
fn every_planted_bug_is_found() {
    for plant in Plant::ALL {
        let found = (0..PLANTED).find(|seed| history(options(*seed, Some(plant))).is_err());
        let seed = found.unwrap_or_else(|| panic!("{plant} was not found in {PLANTED} histories"));
        assert!(
            history(options(seed, None)).is_ok(),
            "{plant}: seed {seed} fails without it"
        );
    }
}

/// Seeds that broke a promise while this was built, and what was wrong. What a seed plays changes
/// with the simulator; the cores' own tests hold the cases themselves.
#[test]
fn what_was_found_stays_mended() {
    for (seed, _found) in [
        (
            17,
            "a repeated request for work leaked the grant that the first one got",
        ),
        (
            35,
            "a late copy of a contribution replaced the weights of the next one",
        ),
        (130, "a group without replicas held up all the others"),
        (
            156,
            "former replicas that had lost their state were waited for without end",
        ),
        (
            229,
            "a run stayed done although the version that had ended it was damaged",
        ),
        (298, "a lost request to publish was never repeated"),
        (484, "a stale revocation took a replica's new leases"),
        (678, "a teacher that publishes fast never served a newer version"),
        (1_663, "two leases of one block waited for one frame"),
        (
            2_138,
            "a first version that could not be written was never asked for again",
        ),
        (
            2_678,
            "a batch that came back brought frames older than the floor",
        ),
        (3_113, "an epoch whose rest was quarantined never closed"),
        (414, "a serving version that was damaged was waited for"),
        (3_645, "a floor that had fallen was taken as held"),
        (21_617, "a group that lost its only version had nobody for ever"),
        (
            108_189,
            "a late copy of a request was granted what had been revoked",
        ),
        (
            309_489,
            "what became unreadable between two sessions stayed leased",
        ),
        (
            309_056,
            "a second answer to an earlier contribution was taken for the next one's",
        ),
        (
            2_414_960,
            "a replica that was moved to another group went on training, and no floor waited for it",
        ),
        (
            3_033_342,
            "a late copy of a release took away what had been leased again",
        ),
        (
            3_110_208,
            "a freeze that ended before an earlier one let messages overtake each other",
        ),
        (
            10_000_000,
            "an online teacher waited for a student that waited for another's last version",
        ),
        (
            10_000_008,
            "a group that learns from itself waited for its own first version",
        ),
        (10_000_600, "an average that could not be written was never made"),
        (
            10_001_870,
            "after a lost session frames of a second teacher below their floor were trained",
        ),
        (60, "lockstep: a version that is not kept was waited for"),
        (
            2_508_021,
            "lockstep: a version that was lost with the disk was waited for",
        ),
        (152, "lockstep: positions behind a hole counted as durable"),
        (212, "lockstep: a block across a boundary belonged to both sides"),
        (
            256,
            "lockstep: a block that was put back forgot which version teaches it",
        ),
        (
            3_631,
            "lockstep: a second version at one place replaced the first",
        ),
        (
            453_838,
            "lockstep: a revoked replica trained its block when the floor had passed the block's version",
        ),
        (58, "lockstep: a student's lost version held up all newer ones"),
    ] {
        if let Err(failure) = history(options(seed, None)) {
            panic!("{failure}");
        }
    }
}
