//! Compiles the .proto files with protox, so that no protoc is needed, into `OUT_DIR`.

use std::error::Error;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["fleet", "join", "reduce", "versions", "teacher", "runs", "status"]
        .map(|name| format!("retort/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;
    // Served by reflection, and what `retort status --json` prints by.
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("retort.bin"), descriptors.encode_to_vec())?;
    generate(descriptors)?;
    // By themselves: what reflection lists is what our servers speak.
    generate(protox::compile(["inference/inference.proto"], ["proto"])?)?;
    generate(protox::compile(["etcd/rpc.proto"], ["proto"])?)
}

fn generate(descriptors: prost_types::FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
