//! Compiles `dunlin/v1/*.proto` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["dunlin/v1/registry.proto", "dunlin/v1/device_link.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    tonic_prost_build::configure().compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}
