//! The permission table, and the only way to add a route: one without a row in the table cannot be
//! built, nor a row that nothing serves.

use std::collections::HashSet;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, on};
use dunlin_auth::Permissions;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;

use crate::guard::{Guard, check};

const READ: Permissions = Permissions::REGISTRY_READ;
const WRITE: Permissions = Permissions::REGISTRY_WRITE;
const SERVICE: Permissions = Permissions::SERVICE_CONNECT;
/// Who manages policies can give himself any permission, so he must hold all of them.
const ALL: Permissions = Permissions::ALL;

/// Method and path of a route, and what the policy of its caller must permit.
pub type Row = (Method, &'static str, Permissions);

/// Every route of the REST API.
pub static TABLE: &[Row] = &[
    (Method::GET, "/devices", READ),
    (Method::POST, "/devices", WRITE),
    (Method::GET, "/devices/", READ),
    (Method::POST, "/devices/", WRITE),
    (Method::POST, "/devices/keys/regenerate", WRITE),
    (Method::GET, "/devices/{id}", READ),
    (Method::PUT, "/devices/{id}", WRITE),
    (Method::DELETE, "/devices/{id}", WRITE),
    (Method::DELETE, "/devices/{id}/commands", SERVICE),
    (Method::GET, "/devices/{id}/modules", READ),
    (Method::GET, "/devices/{id}/modules/", READ),
    (Method::GET, "/devices/{id}/modules/{module}", READ),
    (Method::PUT, "/devices/{id}/modules/{module}", WRITE),
    (Method::DELETE, "/devices/{id}/modules/{module}", WRITE),
    (Method::GET, "/statistics/devices", READ),
    (Method::GET, "/statistics/service", READ),
    (Method::GET, "/twins/{id}", SERVICE),
    (Method::PATCH, "/twins/{id}", SERVICE),
    (Method::PUT, "/twins/{id}", SERVICE),
    (Method::GET, "/twins/{id}/modules/{module}", SERVICE),
    (Method::PATCH, "/twins/{id}/modules/{module}", SERVICE),
    (Method::PUT, "/twins/{id}/modules/{module}", SERVICE),
    (Method::POST, "/twins/{id}/methods", SERVICE),
    (Method::POST, "/twins/{id}/modules/{module}/methods", SERVICE),
    (Method::GET, "/messages/serviceBound/feedback", SERVICE),
    (Method::DELETE, "/messages/serviceBound/feedback/{token}", SERVICE),
    (Method::POST, "/messages/serviceBound/feedback/{token}/abandon", SERVICE),
    (Method::GET, "/messages/servicebound/feedback", SERVICE),
    (Method::DELETE, "/messages/servicebound/feedback/{token}", SERVICE),
    (Method::POST, "/messages/servicebound/feedback/{token}/abandon", SERVICE),
    (Method::POST, "/dunlin/v1/devices/{id}/messages/devicebound", SERVICE),
    (Method::GET, "/dunlin/v1/events", SERVICE),
    (Method::POST, "/dunlin/v1/events/commit", SERVICE),
    (Method::POST, "/dunlin/v1/events/token", SERVICE),
    (Method::GET, "/dunlin/v1/policies", ALL),
    (Method::POST, "/dunlin/v1/policies", ALL),
    (Method::GET, "/dunlin/v1/policies/{name}", ALL),
    (Method::PUT, "/dunlin/v1/policies/{name}", ALL),
    (Method::DELETE, "/dunlin/v1/policies/{name}", ALL),
    (Method::POST, "/dunlin/v1/policies/{name}/renew-key", ALL),
];

/// Routes that are guarded by their rows of the table.
pub(crate) struct Routes<S = ()> {
    router: Router<S>,
    registry: RegistryClient<MeshChannel>,
    served: HashSet<(Method, &'static str)>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(crate) fn new(registry: RegistryClient<MeshChannel>) -> Self {
        Self { router: Router::new(), registry, served: HashSet::new() }
    }

    pub(crate) fn on<H, T>(self, method: Method, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.guarded(method, path, false, handler)
    }

    /// A GET that may bring a token in its URL instead of a header.
    pub(crate) fn get_by_query<H, T>(self, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.guarded(Method::GET, path, true, handler)
    }

    fn guarded<H, T>(
        mut self,
        method: Method,
        path: &'static str,
        by_query: bool,
        handler: H,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let row = TABLE.iter().find(|row| row.0 == method && row.1 == path);
        let (_, _, wanted) = row.expect("every route has a row in the permission table");
        let guard = Guard {
            registry: self.registry.clone(),
            wanted: *wanted,
            // IoT Hub's own paths are versioned by query, ours by path.
            versioned: !path.starts_with("/dunlin/"),
            by_query,
        };
        let filter = MethodFilter::try_from(method.clone()).expect("a method that is served");
        let route = on(filter, handler).route_layer(from_fn_with_state(guard, check));
        self.router = self.router.route(path, route);
        self.served.insert((method, path));
        self
    }

    pub(crate) fn with_state(self, state: S) -> Routes {
        let Self { router, registry, served } = self;
        Routes { router: router.with_state(state), registry, served }
    }
}

impl Routes {
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.served.extend(other.served);
        self
    }

    /// The router of all routes: each row of the table is served.
    pub(crate) fn whole(self) -> Router {
        let idle =
            TABLE.iter().find(|(method, path, _)| !self.served.contains(&(method.clone(), path)));
        assert!(idle.is_none(), "a row of the permission table has no route: {idle:?}");
        self.router
    }
}
