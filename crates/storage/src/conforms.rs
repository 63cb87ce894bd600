//! Conformance suites as tests, the same ones on every side of a port.

/// Tests of these functions of `conformance`, in a module for each side. A side is an async function
/// that sets one up, hands it to the test, and takes it down.
macro_rules! conforms {
    ([$($side:ident),+] $names:tt) => {
        $(conforms!(@ $side $names);)+
    };
    (@ $side:ident { $($name:ident),* $(,)? }) => {
        mod $side {
            use super::conformance;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$side(conformance::$name).await;
            })*
        }
    };
}
