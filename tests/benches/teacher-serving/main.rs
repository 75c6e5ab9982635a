//! Teacher servers beside the limit of the machine, each measured in the same run.
//!
//!   cargo bench -p retort-tests --bench teacher-serving -- [--quick]

mod bare;
mod groups;
mod overload;
mod ready;
mod stream;
mod student;
mod wants;

use retort_tests::bench::Table;

fn main() -> anyhow::Result<()> {
    let quick = retort_tests::bench::quick()?;
    let mut table = Table::default();
    table.keep("quick", quick);
    stream::run(&mut table, quick)?;
    wants::run(&mut table, quick)?;
    groups::run(&mut table)?;
    overload::run(&mut table, quick)?;
    student::run(&mut table, quick)?;
    table.result("teacher-serving")
}
