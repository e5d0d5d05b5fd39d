//! The connections to the manager: one that only listens, one that only asks.
//!
//! A connection whose messages nobody takes stops, and with it every answer on it. So the one that listens has a task
//! that does nothing but empty it into the ring, and nothing is asked on it once that has begun to flow.
//!
//! Invariants:
//! - The manager is listened to before it is asked for anything.
//! - Every question has a deadline.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinHandle;
use zbus::connection::Builder;
use zbus::{Connection, Message, MessageStream, OwnedObjectPath, Variant};

use super::model::Listed;
use super::name;
use super::place::Place;
use super::property::{Properties, WrongType};
use super::relay::relay;
use super::ring::Ring;
use super::signal::{self, BUS, MANAGER, MANAGER_INTERFACE, Speaker, UNIT_INTERFACE};
use super::unit::Found;

/// Messages that a connection holds while its task does not run.
const QUEUE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Why the manager did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// Nobody is there. Retry later.
    #[error("{0} cannot be reached: {1}")]
    Connect(String, zbus::Error),
    /// The bus is there, the manager is not. Retry later.
    #[error("no manager has the name {MANAGER} there")]
    NoManager,
    /// What was asked for is gone. Skip it.
    #[error("it is gone")]
    Gone,
    /// The answer cannot be read. Skip it and count it.
    #[error("the answer to {0} cannot be read: {1}")]
    Answer(&'static str, zbus::Error),
    /// A property has another type. Skip it and count it.
    #[error(transparent)]
    Property(#[from] WrongType),
    /// No answer, or a refusal. Connect again.
    #[error("{0} was not answered: {1}")]
    Call(&'static str, zbus::Error),
}

/// The connection that asks. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    connection: Connection,
    /// Where there is a bus.
    destination: Option<&'static str>,
}

/// Both connections. Dropping it closes them.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) calls: Calls,
    listener: JoinHandle<()>,
    _signals: Connection,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Link {
    /// Connects twice and subscribes; signals flow into the ring from now on.
    pub(super) async fn open(place: &Place, deadline: Duration, ring: Arc<Ring>) -> Result<Self, LinkError> {
        let signals = connect(place, deadline).await?;
        let is_bus = matches!(place, Place::Bus(_));
        let listening = Calls { connection: signals.clone(), destination: is_bus.then_some(MANAGER) };
        let stream = MessageStream::from(&signals);
        let speaker = if is_bus { Speaker::Named(listening.owner().await?) } else { Speaker::Peer };
        let listener = tokio::spawn(listen(stream, speaker, ring));
        let link = Self {
            calls: Calls { connection: connect(place, deadline).await?, destination: listening.destination },
            listener,
            _signals: signals,
        };
        if is_bus {
            listening.add_matches().await?;
        }
        listening.manager("Subscribe").await?;
        Ok(link)
    }
}

/// A connection with a deadline for itself and each of its calls.
async fn connect(place: &Place, deadline: Duration) -> Result<Connection, LinkError> {
    let failed = |error| LinkError::Connect(place.to_string(), error);
    let builder = match place {
        Place::Bus(address) => Builder::address(address.as_str()),
        Place::Private(path) => {
            let stream = UnixStream::connect(path).and_then(relay);
            let stream = stream.map_err(|error| failed(error.into()))?;
            Builder::unix_stream(stream).p2p()
        }
    };
    let building = builder.max_queued(QUEUE).method_timeout(deadline).build();
    match tokio::time::timeout(deadline, building).await {
        Ok(built) => built.map_err(failed),
        Err(_) => Err(failed(std::io::Error::from(std::io::ErrorKind::TimedOut).into())),
    }
}

/// Empties the connection into the ring until it ends.
async fn listen(mut stream: MessageStream, speaker: Speaker, ring: Arc<Ring>) {
    while let Some(message) = stream.next().await {
        match message {
            Ok(message) => match signal::read(&message, &speaker) {
                Ok(Some(signal)) => ring.push(signal),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!("systemd: passed over {error}");
                    ring.malformed();
                }
            },
            Err(error) => return ring.end(format!("the connection broke: {error}")),
        }
    }
    ring.end("the connection was closed".into());
}

impl Calls {
    async fn call<B>(
        &self,
        (path, interface, method): (&str, &str, &'static str),
        body: &B,
    ) -> Result<Message, LinkError>
    where
        B: serde::Serialize + zbus::wire::DynamicType,
    {
        let destination = if path == BUS_PATH { Some(BUS) } else { self.destination };
        let called = self.connection.call_method(destination, path, Some(interface), method, body).await;
        called.map_err(|error| match error {
            zbus::Error::FDO(fdo) => match *fdo {
                zbus::fdo::Error::UnknownObject(_)
                | zbus::fdo::Error::UnknownInterface(_)
                | zbus::fdo::Error::UnknownMethod(_)
                | zbus::fdo::Error::UnknownProperty(_) => LinkError::Gone,
                zbus::fdo::Error::NameHasNoOwner(_) | zbus::fdo::Error::ServiceUnknown(_) => {
                    LinkError::NoManager
                }
                other => LinkError::Call(method, other.into()),
            },
            zbus::Error::MethodError(name, ..) if name.as_str().starts_with(MANAGER) => LinkError::Gone,
            other => LinkError::Call(method, other),
        })
    }

    async fn manager(&self, method: &'static str) -> Result<Message, LinkError> {
        self.call((MANAGER_PATH, MANAGER_INTERFACE, method), &()).await
    }

    /// The unique name of the manager.
    async fn owner(&self) -> Result<Box<str>, LinkError> {
        let message = self.call((BUS_PATH, BUS, "GetNameOwner"), &(MANAGER,)).await?;
        let body = message.body();
        let owner: &str = body.deserialize().map_err(|error| LinkError::Answer("GetNameOwner", error))?;
        Ok(owner.into())
    }

    async fn add_matches(&self) -> Result<(), LinkError> {
        for rule in [
            format!(
                "type='signal',sender='{MANAGER}',interface='{PROPERTIES}',member='PropertiesChanged',\
                 path_namespace='{}'",
                name::UNITS
            ),
            format!("type='signal',sender='{MANAGER}',interface='{MANAGER_INTERFACE}'"),
            format!(
                "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{MANAGER}'"
            ),
        ] {
            self.call((BUS_PATH, BUS, "AddMatch"), &(rule,)).await?;
        }
        Ok(())
    }

    /// Every loaded unit.
    pub(super) async fn list(&self) -> Result<Vec<Listed>, LinkError> {
        let message = self.manager("ListUnits").await?;
        let body = message.body();
        let rows: Vec<Entry<'_>> =
            body.deserialize().map_err(|error| LinkError::Answer("ListUnits", error))?;
        let listed = |row: Entry<'_>| Listed { unit: row.0.into(), job: row.7, job_kind: row.8.into() };
        Ok(rows.into_iter().map(listed).collect())
    }

    async fn properties(&self, path: &str, interface: &str) -> Result<Message, LinkError> {
        self.call((path, PROPERTIES, "GetAll"), &(interface,)).await
    }

    /// Everything of one unit.
    pub(super) async fn unit(&self, unit: &str) -> Result<Found, LinkError> {
        let path = name::to_path(unit);
        let general = self.properties(&path, UNIT_INTERFACE).await?;
        let special = match name::interface(unit) {
            Some(interface) => Some(self.properties(&path, interface).await?),
            None => None,
        };
        let (general, special) = (general.body(), special.map(|message| message.body()));
        let failed = |error| LinkError::Answer("GetAll", error);
        let general: HashMap<&str, Variant<'_>> = general.deserialize().map_err(failed)?;
        let special = match &special {
            Some(body) => body.deserialize().map_err(failed)?,
            None => HashMap::new(),
        };
        Ok(Found::read(&Properties::new(general), &Properties::new(special))?)
    }

    /// What a job is for.
    pub(super) async fn job_kind(&self, id: u32) -> Result<Box<str>, LinkError> {
        let path = format!("{MANAGER_PATH}/job/{id}");
        let asked = &("org.freedesktop.systemd1.Job", "JobType");
        let message = self.call((&path, PROPERTIES, "Get"), asked).await?;
        let body = message.body();
        match body.deserialize().map_err(|error| LinkError::Answer("Get", error))? {
            Variant::Str(kind) => Ok(kind.as_str().into()),
            _ => Err(WrongType("JobType").into()),
        }
    }
}

/// A row of `ListUnits`: name, description, load, active and sub state, followed unit, path; id, type and path of
/// its job.
type Entry<'m> =
    (&'m str, &'m str, &'m str, &'m str, &'m str, &'m str, OwnedObjectPath, u32, &'m str, OwnedObjectPath);
