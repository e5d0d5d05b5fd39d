//! An API server that serves lists and watches of whatever it is given, and tears, stalls and lies when it is told to.
//!
//! Each fault counts how often it fired: a test that does not ask for that count proves nothing.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

/// What goes wrong the next time that somebody asks for a resource.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// A list or watch is answered with this status.
    Status(u16, &'static str),
    /// A watch begins with an ERROR of this code inside HTTP 200.
    ErrorInside(u16),
    /// A list breaks off after so many bytes.
    TornList(usize),
    /// A list does not end.
    EndlessList(Endless),
    /// The next change is sent by half, then the connection is closed.
    TornLine,
    /// The next change is sent in pieces, with a pause between them.
    SlowLine,
    /// The next change is sent twice, and then once more with the version before it.
    Repeated,
    /// This line is sent before the next change.
    Line(Arc<[u8]>),
}

/// How a list does not end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Endless {
    /// One object after the other.
    Objects,
    /// An object that does not end.
    Object,
    /// Pages without objects, each with another behind it.
    Pages,
}

#[derive(Debug, Clone)]
struct Change {
    version: u64,
    kind: &'static str,
    object: Value,
}

#[derive(Debug, Default)]
struct Resource {
    objects: BTreeMap<String, Value>,
    changes: VecDeque<Change>,
    faults: VecDeque<Fault>,
}

/// A request that was made.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) plural: String,
    pub(super) is_watch: bool,
    pub(super) authorization: String,
    pub(super) accept: String,
}

#[derive(Debug, Default)]
struct State {
    resources: BTreeMap<String, Resource>,
    version: u64,
    /// Changes up to here are forgotten.
    compacted: u64,
    asked: Vec<Asked>,
    fired: BTreeMap<&'static str, u64>,
    /// The only credentials that are accepted.
    token: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
    /// Connections of an earlier generation are closed.
    generation: AtomicU64,
}

/// A running fake.
pub(super) struct Fake {
    pub(super) address: String,
    shared: Arc<Shared>,
    folder: tempfile::TempDir,
}

impl Fault {
    fn name(&self) -> &'static str {
        match self {
            Self::Status(..) => "status",
            Self::ErrorInside(_) => "error inside",
            Self::TornList(_) => "torn list",
            Self::EndlessList(_) => "endless list",
            Self::TornLine => "torn line",
            Self::SlowLine => "slow line",
            Self::Repeated => "repeated",
            Self::Line(_) => "line",
        }
    }

    fn is_of_line(&self) -> bool {
        matches!(self, Self::TornLine | Self::SlowLine | Self::Repeated | Self::Line(_))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Stores an object under its uid, with the next version.
    fn put(&mut self, plural: &str, mut object: Value) -> (u64, Value) {
        self.version += 1;
        let version = self.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
        let resource = self.resources.entry(plural.to_owned()).or_default();
        let before = resource.objects.insert(uid, object.clone());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        resource.changes.push_back(Change { version, kind, object: object.clone() });
        (version, object)
    }

    fn lease(&self, name: &str) -> Option<&Value> {
        let mut leases = self.resources.get("leases")?.objects.values();
        leases.find(|lease| lease["metadata"]["name"] == name)
    }

    /// Answers a request for one Lease: who writes must know the version that is there.
    fn write_lease(&mut self, method: &str, path: &str, mut lease: Value) -> (u16, Value) {
        let name = match method {
            "POST" => lease["metadata"]["name"].as_str().unwrap_or("").to_owned(),
            _ => path.rsplit('/').next().unwrap_or("").to_owned(),
        };
        let there = self.lease(&name).cloned();
        match (method, there) {
            ("GET", Some(there)) => (200, there),
            ("PUT", Some(there))
                if there["metadata"]["resourceVersion"] == lease["metadata"]["resourceVersion"] =>
            {
                (200, self.put("leases", lease).1)
            }
            ("POST", None) => {
                lease["metadata"]["uid"] = json!(format!("lease-{name}"));
                (201, self.put("leases", lease).1)
            }
            (_, None) => (404, refusal(404, "NotFound")),
            _ => (409, refusal(409, "Conflict")),
        }
    }

    /// Takes the next fault of a resource, if it is of the wanted sort, and counts it.
    fn fault(&mut self, plural: &str, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let faults = &mut self.resources.get_mut(plural)?.faults;
        let at = faults.iter().position(wanted)?;
        let fault = faults.remove(at)?;
        *self.fired.entry(fault.name()).or_default() += 1;
        Some(fault)
    }
}

impl Fake {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        shared.lock().version = 1000;
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&serving)) else { continue };
                std::thread::spawn(move || {
                    // Whoever hangs up has what it wanted.
                    let _gone = serve(&stream, &shared);
                });
            }
        });
        Self { address, shared, folder: tempfile::tempdir().unwrap() }
    }

    /// A kubeconfig for it, with a token in a file.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.set_token_file("token-1");
        let path = self.folder.path().join("kubeconfig");
        let token = self.folder.path().join("token").display().to_string();
        std::fs::write(
            &path,
            kubeconfig(&format!("http://{}", self.address), &format!("tokenFile: {token}"), ""),
        )
        .unwrap();
        path
    }

    /// Where the agent may keep its state.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Puts another token into the file.
    pub(super) fn set_token_file(&self, token: &str) {
        std::fs::write(self.folder.path().join("token"), token).unwrap();
    }

    /// Accepts nothing but this token from now on, and closes every connection.
    pub(super) fn accept_only(&self, token: &str) {
        self.shared.lock().token = Some(token.to_owned());
        self.cut();
    }

    /// Accepts every token again.
    pub(super) fn accept_all(&self) {
        self.shared.lock().token = None;
    }

    /// Makes or changes an object; returns its version.
    pub(super) fn put(&self, plural: &str, object: Value) -> u64 {
        let version = self.shared.lock().put(plural, object).0;
        self.shared.changed.notify_all();
        version
    }

    /// Who holds the Lease of this name.
    pub(super) fn holder(&self, name: &str) -> String {
        let state = self.shared.lock();
        let lease = state.lease(name).map(|lease| lease["spec"]["holderIdentity"].clone());
        lease.and_then(|holder| holder.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Deletes an object.
    pub(super) fn delete(&self, plural: &str, uid: &str) {
        let mut state = self.shared.lock();
        state.version += 1;
        let version = state.version;
        let resource = state.resources.entry(plural.to_owned()).or_default();
        let mut object = resource.objects.remove(uid).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        resource.changes.push_back(Change { version, kind: "DELETED", object });
        self.shared.changed.notify_all();
    }

    /// Forgets every change so far: who asks for one gets 410.
    pub(super) fn compact(&self) {
        let mut state = self.shared.lock();
        state.compacted = state.version;
        for resource in state.resources.values_mut() {
            resource.changes.clear();
        }
    }

    /// Closes every connection, as a restart would.
    pub(super) fn cut(&self) {
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        let _state = self.shared.lock();
        self.shared.changed.notify_all();
    }

    /// The next time that somebody asks for the resource, this happens.
    pub(super) fn fault(&self, plural: &str, fault: Fault) {
        let mut state = self.shared.lock();
        state.resources.entry(plural.to_owned()).or_default().faults.push_back(fault);
    }

    /// How often a fault fired.
    pub(super) fn fired(&self, name: &str) -> u64 {
        self.shared.lock().fired.get(name).copied().unwrap_or(0)
    }

    /// Every request so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the thread that accepts.
        let _woken = TcpStream::connect(&self.address);
    }
}

/// The text of a kubeconfig.
pub(super) fn kubeconfig(server: &str, user: &str, cluster: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: {server}\n{cluster}\nusers:\n\
         - name: u\n  user:\n    {user}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u, namespace: tapio}}\n\
         current-context: c\n"
    )
}

/// Writes a kubeconfig into a folder.
pub(super) fn write_kubeconfig(folder: &Path, server: &str, user: &str, cluster: &str) -> PathBuf {
    let path = folder.join("kubeconfig");
    std::fs::write(&path, kubeconfig(server, user, cluster)).unwrap();
    path
}

struct Head {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    authorization: String,
    accept: String,
    length: usize,
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let decode =
        |text: &str| text.replace("%3D", "=").replace("%21", "!").replace("%2F", "/").replace('+', " ");
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(name, value)| (name.to_owned(), decode(value))).collect();
    let mut head = Head {
        method: line.split(' ').next().unwrap_or("").to_owned(),
        path: path.to_owned(),
        query,
        authorization: String::new(),
        accept: String::new(),
        length: 0,
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(head));
        }
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => value.clone_into(&mut head.authorization),
            "accept" => value.clone_into(&mut head.accept),
            "content-length" => head.length = value.parse().unwrap_or(0),
            _ => {}
        }
    }
}

/// Whether an object is among those that a selector of fields chooses.
fn is_selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        let (path, value, wanted) = match part.split_once("!=") {
            Some((path, value)) => (path, value, false),
            None => part.split_once('=').map(|(path, value)| (path, value, true)).unwrap_or((part, "", true)),
        };
        let pointer = format!("/{}", path.replace('.', "/"));
        let found = object.pointer(&pointer).and_then(Value::as_str).unwrap_or("");
        (found == value) == wanted
    })
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let generation = shared.generation.load(Ordering::Relaxed);
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream.try_clone()?;
    while let Some(head) = read_head(&mut reader)? {
        if shared.generation.load(Ordering::Relaxed) != generation {
            return Ok(());
        }
        let plural = head.path.rsplit('/').next().unwrap_or("").to_owned();
        let is_watch = head.query.get("watch").is_some_and(|value| value == "true" || value == "1");
        let (refused, fault) = {
            let mut state = shared.lock();
            let (authorization, accept) = (head.authorization.clone(), head.accept.clone());
            state.asked.push(Asked { plural: plural.clone(), is_watch, authorization, accept });
            let token = state.token.as_ref().map(|token| format!("Bearer {token}"));
            let refused = token.is_some_and(|token| token != head.authorization);
            (refused, state.fault(&plural, |fault| matches!(fault, Fault::Status(..))))
        };
        let mut body = vec![0; head.length];
        reader.read_exact(&mut body)?;
        if refused {
            status(&mut writer, 401, "Unauthorized")?;
        } else if let Some(Fault::Status(code, message)) = fault {
            status(&mut writer, code, message)?;
        } else if head.method != "GET" || head.path.contains("/leases/") {
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let (code, answer) = shared.lock().write_lease(&head.method, &head.path, body);
            shared.changed.notify_all();
            answer_with(&mut writer, code, &answer)?;
        } else if is_watch {
            return watch(&mut writer, shared, &plural, &head, &Connection { stream, generation });
        } else {
            list(&mut writer, shared, &plural, &head)?;
        }
    }
    Ok(())
}

fn status(writer: &mut impl Write, code: u16, message: &str) -> io::Result<()> {
    answer_with(writer, code, &json!({"kind": "Status", "code": code, "message": message}))
}

fn refusal(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

fn answer_with(writer: &mut impl Write, code: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    write!(writer, "HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunk(writer: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write!(writer, "{:x}\r\n", bytes.len())?;
    writer.write_all(bytes)?;
    writer.write_all(b"\r\n")
}

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn list(writer: &mut impl Write, shared: &Shared, plural: &str, head: &Head) -> io::Result<()> {
    let selector = head.query.get("fieldSelector").cloned().unwrap_or_default();
    let limit: usize = head.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let from: usize = head.query.get("continue").and_then(|next| next.parse().ok()).unwrap_or(0);
    let endless = shared.lock().fault(plural, |fault| matches!(fault, Fault::EndlessList(_)));
    if let Some(Fault::EndlessList(endless)) = endless {
        return list_for_ever(writer, endless);
    }
    let (version, page, more, fault) = {
        let mut state = shared.lock();
        let fault = state.fault(plural, |fault| matches!(fault, Fault::TornList(_)));
        let all = state.resources.get(plural).map(|resource| &resource.objects);
        let all: Vec<&Value> = all
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|object| is_selected(object, &selector))
            .collect();
        let page: Vec<String> = all.iter().skip(from).take(limit).map(ToString::to_string).collect();
        (state.version, page, all.len() > from + limit, fault)
    };
    let mut meta = json!({"resourceVersion": version.to_string()});
    if more {
        meta["continue"] = json!((from + limit).to_string());
    }
    writer.write_all(CHUNKED)?;
    let body = format!(r#"{{"kind":"List","metadata":{meta},"items":[{}]}}"#, page.join(","));
    if let Some(Fault::TornList(bytes)) = fault {
        chunk(writer, &body.as_bytes()[..bytes.min(body.len() - 1)])?;
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    chunk(writer, body.as_bytes())?;
    writer.write_all(b"0\r\n\r\n")
}

/// Until the other side hangs up; a page without objects each time that one is asked for.
fn list_for_ever(writer: &mut impl Write, endless: Endless) -> io::Result<()> {
    writer.write_all(CHUNKED)?;
    match endless {
        Endless::Pages => {
            chunk(writer, br#"{"metadata":{"resourceVersion":"1","continue":"more"},"items":[]}"#)?;
            return writer.write_all(b"0\r\n\r\n");
        }
        Endless::Object => chunk(writer, br#"{"metadata":{},"items":[{"metadata":{"name":""#)?,
        Endless::Objects => chunk(writer, br#"{"metadata":{},"items":[{}"#)?,
    }
    for number in 0_u64.. {
        let text = match endless {
            Endless::Object => "x".repeat(1 << 16),
            _ => (number * 100..(number + 1) * 100).map(endless_pod).collect(),
        };
        chunk(writer, text.as_bytes())?;
    }
    Ok(())
}

/// More pods than anyone remembers, then the first of them again and again.
fn endless_pod(number: u64) -> String {
    let number = if number < 40_000 { number } else { 0 };
    format!(
        r#",{{"metadata":{{"name":"web-{number}","namespace":"shop","uid":"{number:08x}-d9cb-469f-a165-70867728950e",
        "resourceVersion":"7"}},"spec":{{"nodeName":"here"}},"status":{{"phase":"Running"}}}}"#
    )
}

/// A connection, as long as both sides want it.
struct Connection<'stream> {
    stream: &'stream TcpStream,
    generation: u64,
}

impl Connection<'_> {
    /// Whether one of the sides is gone: a fault must not be spent on nobody.
    fn is_over(&self, shared: &Shared) -> bool {
        use rustix::net::RecvFlags;
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let hung_up = matches!(rustix::net::recv(self.stream, &mut byte, flags), Ok((_, 0)));
        hung_up || shared.generation.load(Ordering::Relaxed) != self.generation
    }
}

fn watch(
    writer: &mut impl Write,
    shared: &Shared,
    plural: &str,
    head: &Head,
    connection: &Connection<'_>,
) -> io::Result<()> {
    let selector = head.query.get("fieldSelector").cloned().unwrap_or_default();
    let mut from: u64 = head.query.get("resourceVersion").and_then(|from| from.parse().ok()).unwrap_or(0);
    let inside = {
        let mut state = shared.lock();
        let fault = state.fault(plural, |fault| matches!(fault, Fault::ErrorInside(_)));
        if state.compacted > from && fault.is_none() {
            Some(410)
        } else {
            fault.map(|fault| if let Fault::ErrorInside(code) = fault { code } else { 500 })
        }
    };
    writer.write_all(CHUNKED)?;
    if let Some(code) = inside {
        let error =
            json!({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "told to"}});
        // API servers write the type first.
        chunk(writer, format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", error["object"]).as_bytes())?;
        return writer.write_all(b"0\r\n\r\n");
    }
    loop {
        let (changes, faults) = {
            let mut state = shared.lock();
            loop {
                if connection.is_over(shared) {
                    return Ok(());
                }
                let resource = state.resources.entry(plural.to_owned()).or_default();
                let changes: Vec<Change> =
                    resource.changes.iter().filter(|change| change.version > from).cloned().collect();
                if let Some(last) = changes.last() {
                    from = last.version;
                    let mut faults = Vec::new();
                    while let Some(fault) = state.fault(plural, Fault::is_of_line) {
                        faults.push(fault);
                    }
                    break (changes, faults);
                }
                state = shared.changed.wait_timeout(state, Duration::from_secs(1)).unwrap().0;
            }
        };
        for (number, change) in changes.iter().enumerate() {
            if !is_selected(&change.object, &selector) {
                continue;
            }
            let faults = if number == 0 { &faults[..] } else { &[] };
            send(writer, change, faults)?;
        }
    }
}

fn send(writer: &mut impl Write, change: &Change, faults: &[Fault]) -> io::Result<()> {
    let line =
        |object: &Value| format!("{{\"type\":\"{}\",\"object\":{object}}}\n", change.kind).into_bytes();
    let text = line(&change.object);
    for fault in faults {
        match fault {
            Fault::Line(line) => chunk(writer, line)?,
            Fault::TornLine => {
                chunk(writer, &text[..text.len() / 2])?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Fault::SlowLine => {
                for part in text.chunks(text.len() / 4) {
                    chunk(writer, part)?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                return Ok(());
            }
            Fault::Repeated => {
                let mut older = change.object.clone();
                older["metadata"]["resourceVersion"] = json!((change.version - 1).to_string());
                chunk(writer, &text)?;
                chunk(writer, &text)?;
                return chunk(writer, &line(&older));
            }
            _ => {}
        }
    }
    chunk(writer, &text)
}
