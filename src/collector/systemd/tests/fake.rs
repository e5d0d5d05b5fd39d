//! A bus of its own, and a manager on it that does what a real one will not do on demand.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant};

use super::super::name;
use super::super::signal::{MANAGER, MANAGER_INTERFACE, UNIT_INTERFACE};

const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// A dbus-daemon for one test.
pub(super) struct Bus {
    child: Child,
    folder: PathBuf,
}

impl Bus {
    /// `None` where there is no dbus-daemon.
    pub(super) fn start(folder: &Path) -> Option<Self> {
        let socket = folder.join("bus");
        let _stale = std::fs::remove_file(&socket);
        let config = folder.join("bus.conf");
        let text = format!(
            "<busconfig><type>custom</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow own=\"*\"/>\
             <allow eavesdrop=\"true\"/></policy></busconfig>",
            socket.display()
        );
        std::fs::write(&config, text).expect("a folder that can be written");
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg("--print-address").arg(format!("--config-file={}", config.display()));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("dbus-daemon says its address");
        assert!(line.starts_with("unix:"), "{line}");
        Some(Self { child, folder: folder.into() })
    }

    pub(super) fn address(&self) -> String {
        format!("unix:path={}", self.folder.join("bus").display())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// What a unit of the fake has for its two interfaces.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeUnit {
    pub(super) general: HashMap<&'static str, Variant<'static>>,
    pub(super) special: HashMap<&'static str, Variant<'static>>,
}

/// How the manager misbehaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Good,
    /// Answers nothing.
    Mute,
    /// Answers with bodies that are none.
    Confused,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) units: BTreeMap<String, FakeUnit>,
    pub(super) jobs: BTreeMap<u32, (String, &'static str)>,
    pub(super) mood: Mood,
    pub(super) subscribed: u32,
    /// `GetAll` by unit.
    pub(super) asked: BTreeMap<String, u32>,
}

/// One signal to send.
pub(super) enum Order {
    Properties(String, &'static str, HashMap<&'static str, Variant<'static>>),
    UnitNew(String),
    UnitRemoved(String),
    JobNew(u32, String),
    JobRemoved(u32, String, &'static str),
    Reloading(bool),
    /// A signal of the manager with a body that is none.
    Nonsense(&'static str),
}

/// The manager.
pub(super) struct Fake {
    pub(super) world: Arc<Mutex<World>>,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// On a bus.
    pub(super) fn on_bus(address: &str, world: World) -> Self {
        let address = address.to_owned();
        Self::spawn(world, move |world, orders| {
            Box::pin(async move {
                let builder = Builder::address(address.as_str()).max_queued(QUEUE).method_timeout(PATIENCE);
                let connection = builder.build().await.expect("a bus");
                let stream = MessageStream::from(&connection);
                connection.request_name(MANAGER).await.expect("nobody else has the name");
                serve(vec![connection], vec![stream], world, orders).await;
            })
        })
    }

    /// At a socket of its own, for two connections.
    pub(super) fn on_socket(path: &Path, world: World) -> Self {
        let listener = UnixListener::bind(path).expect("a folder that can be written");
        Self::spawn(world, move |world, orders| {
            Box::pin(async move {
                let (mut connections, mut streams) = (Vec::new(), Vec::new());
                listener.set_nonblocking(true).expect("a socket");
                let listener = tokio::net::UnixListener::from_std(listener).expect("a socket");
                while connections.len() < 2 {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    let stream = stream.into_std().expect("a socket");
                    let builder = Builder::unix_stream(stream).server(zbus::Guid::generate()).p2p();
                    let connection = builder
                        .max_queued(QUEUE)
                        .method_timeout(PATIENCE)
                        .build()
                        .await
                        .expect("a handshake");
                    streams.push(MessageStream::from(&connection));
                    connections.push(connection);
                    // The second connection comes only once the first was answered.
                    if connections.len() == 1 {
                        continue;
                    }
                }
                serve(connections, streams, world, orders).await;
            })
        })
    }

    fn spawn<Run>(world: World, run: Run) -> Self
    where
        Run: FnOnce(Arc<Mutex<World>>, mpsc::Receiver<Order>) -> std::pin::Pin<Box<dyn Future<Output = ()>>>
            + Send
            + 'static,
    {
        let world = Arc::new(Mutex::new(world));
        let (sender, receiver) = mpsc::channel(1 << 16);
        let shared = Arc::clone(&world);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(shared, receiver));
        });
        Self { world, orders: Some(sender), thread: Some(thread) }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics in here")
    }

    pub(super) fn order(&self, order: Order) {
        self.orders.as_ref().expect("it runs").blocking_send(order).expect("it runs");
    }

    /// Changes a unit and announces it.
    pub(super) fn change(&self, unit: &str, change: impl FnOnce(&mut FakeUnit)) {
        change(self.world().units.get_mut(unit).expect("a unit of this fake"));
        self.announce(unit);
    }

    /// Announces a unit as it is now.
    pub(super) fn announce(&self, unit: &str) {
        let FakeUnit { general, special } =
            self.world().units.get(unit).expect("a unit of this fake").clone();
        if let Some(interface) = name::interface(unit) {
            self.order(Order::Properties(unit.into(), interface, special));
        }
        self.order(Order::Properties(unit.into(), UNIT_INTERFACE, general));
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

const QUEUE: std::num::NonZeroUsize = std::num::NonZeroUsize::new(1 << 16).unwrap();

async fn serve(
    connections: Vec<Connection>,
    streams: Vec<MessageStream>,
    world: Arc<Mutex<World>>,
    mut orders: mpsc::Receiver<Order>,
) {
    let tagged = streams.into_iter().enumerate().map(|(index, stream)| stream.map(move |item| (index, item)));
    let mut calls = futures_util::stream::select_all(tagged);
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(order) = order else { return };
                for connection in &connections {
                    obey(connection, &order).await;
                }
            }
            Some((index, message)) = calls.next() => {
                let Ok(message) = message else { continue };
                if message.message_type() == Type::MethodCall {
                    answer(&connections[index], &message, &world).await;
                }
            }
        }
    }
}

async fn obey(connection: &Connection, order: &Order) {
    match order {
        Order::Properties(unit, interface, values) => properties(connection, unit, interface, values).await,
        Order::UnitNew(unit) => manager(connection, "UnitNew", &(unit, path(&name::to_path(unit)))).await,
        Order::UnitRemoved(unit) => {
            manager(connection, "UnitRemoved", &(unit, path(&name::to_path(unit)))).await
        }
        Order::JobNew(id, unit) => manager(connection, "JobNew", &(id, path("/j"), unit)).await,
        Order::JobRemoved(id, unit, result) => {
            manager(connection, "JobRemoved", &(id, path("/j"), unit, result)).await;
        }
        Order::Reloading(begins) => manager(connection, "Reloading", &(begins,)).await,
        Order::Nonsense(member) => manager(connection, member, &(7_u64, vec!["x"])).await,
    }
}

fn path(text: &str) -> ObjectPath<'_> {
    ObjectPath::try_from(text).expect("a path")
}

async fn manager(
    connection: &Connection,
    member: &'static str,
    body: &(impl serde::Serialize + zbus::wire::DynamicType),
) {
    let sent = connection.emit_signal(None::<&str>, MANAGER_PATH, MANAGER_INTERFACE, member, body).await;
    // A test may have ended the bus.
    drop(sent);
}

async fn properties(
    connection: &Connection,
    unit: &str,
    interface: &str,
    values: &HashMap<&'static str, Variant<'static>>,
) {
    let path = name::to_path(unit);
    let body = (interface, values, Vec::<&str>::new());
    let properties = "org.freedesktop.DBus.Properties";
    drop(connection.emit_signal(None::<&str>, path, properties, "PropertiesChanged", &body).await);
}

type Row<'w> =
    (&'w str, &'w str, &'w str, &'w str, &'w str, &'w str, ObjectPath<'w>, u32, &'w str, ObjectPath<'w>);

/// What to answer.
enum Reply {
    Nothing,
    Empty,
    Nonsense,
    Error,
    Units(Vec<(String, u32, &'static str)>),
    Properties(HashMap<&'static str, Variant<'static>>),
    Text(&'static str),
}

fn reply(message: &Message, world: &mut World) -> Reply {
    let header = message.header();
    let member = header.member().map_or("", |member| member.as_str());
    match world.mood {
        Mood::Mute => return Reply::Nothing,
        Mood::Confused if member != "Subscribe" => return Reply::Nonsense,
        _ => {}
    }
    let path = header.path().map_or("", |path| path.as_str());
    match member {
        "Subscribe" => {
            world.subscribed += 1;
            Reply::Empty
        }
        "ListUnits" => {
            let job = |unit: &String| {
                let found = world.jobs.iter().find(|(_, (name, _))| name == unit);
                found.map_or((0, ""), |(id, (_, kind))| (*id, *kind))
            };
            let row = |unit: &String| (unit.clone(), job(unit).0, job(unit).1);
            Reply::Units(world.units.keys().map(row).collect())
        }
        "GetAll" => {
            let Some(unit) = name::of_path(path) else { return Reply::Error };
            *world.asked.entry(unit.clone()).or_default() += 1;
            let Some(found) = world.units.get(&unit) else { return Reply::Error };
            let body = message.body();
            let interface: &str = body.deserialize().expect("a name");
            Reply::Properties(
                if interface == UNIT_INTERFACE { &found.general } else { &found.special }.clone(),
            )
        }
        "Get" => {
            let id = path.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or(0);
            world.jobs.get(&id).map_or(Reply::Error, |(_, kind)| Reply::Text(kind))
        }
        _ => Reply::Error,
    }
}

async fn answer(connection: &Connection, message: &Message, world: &Mutex<World>) {
    let header = message.header();
    let reply = reply(message, &mut world.lock().unwrap());
    let sent = match reply {
        Reply::Nothing => Ok(()),
        Reply::Empty => connection.reply(&header, &()).await,
        Reply::Nonsense => connection.reply(&header, &("nonsense", 7_u64)).await,
        Reply::Error => {
            connection.reply_error(&header, "org.freedesktop.DBus.Error.UnknownObject", &"none").await
        }
        Reply::Units(units) => {
            let rows: Vec<Row<'_>> = units.iter().map(|(unit, id, kind)| list_row(unit, *id, kind)).collect();
            connection.reply(&header, &(rows,)).await
        }
        Reply::Properties(values) => connection.reply(&header, &(values,)).await,
        Reply::Text(text) => connection.reply(&header, &(Variant::from(text),)).await,
    };
    drop(sent);
}

fn list_row<'w>(unit: &'w str, id: u32, kind: &'w str) -> Row<'w> {
    (unit, "", "loaded", "", "", "", path("/u"), id, kind, path("/j"))
}
