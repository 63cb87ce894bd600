//! What every role is made of: its anatomy, its health, how roles reach one another (`Mesh`), how
//! they reach a connected device (`DeviceLinks`), and what is told of all that (metrics, traces).

pub mod clock;
pub mod component;
pub mod device_links;
pub mod health;
pub mod memory;
pub mod mesh;
pub mod metrics;
pub mod stores;
pub mod telemetry;
pub mod turns;

pub use clock::Clock;
pub use component::{Component, Role};
pub use device_links::{DeviceLinks, Invoked};
pub use health::Health;
pub use mesh::{Mesh, MeshChannel};
pub use telemetry::Telemetry;
/// Cancelled once, when the process is asked to stop.
pub use tokio_util::sync::CancellationToken as Shutdown;
pub use turns::Turns;
