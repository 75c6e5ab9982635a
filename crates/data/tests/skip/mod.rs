//! What a test says that ends without a check.

use std::io::Write;

/// Past the capture of output, which hides what a passing test prints. With `RETORT_NO_SKIP=1` the test fails instead.
pub(crate) fn skipped(why: &str) {
    let must = std::env::var_os("RETORT_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!must, "RETORT_NO_SKIP=1, and {why}");
    writeln!(std::io::stderr(), "SKIPPED: {why}").expect("stderr");
}
