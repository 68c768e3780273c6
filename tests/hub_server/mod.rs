//! A small server of the hub's API on a free port of this machine, with faults to order.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The commit of the one revision.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request that came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub token: Option<String>,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An error status with the hub's header for its kind and message.
    Refuse {
        status: u16,
        code: &'static str,
        message: &'static str,
    },
    /// The connection ends after half of the body.
    Cut { times: usize },
    /// Another body of the same length.
    Body(Vec<u8>),
    /// The connection stays open without an answer.
    Silence,
}

struct State {
    address: String,
    repo: String,
    revision: String,
    commit: String,
    /// Name to content and whether it is in LFS.
    files: BTreeMap<String, (Vec<u8>, bool)>,
    /// Part of `METHOD PATH` to fault.
    faults: Vec<(String, Fault)>,
    requests: Vec<Request>,
    /// Names of files of which a body was sent.
    bodies: Vec<String>,
}

/// The running server. Its thread ends with the test's process.
pub struct HubServer {
    address: String,
    state: Arc<Mutex<State>>,
}

impl HubServer {
    pub fn start(repo: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            address: address.clone(),
            repo: repo.into(),
            revision: "main".into(),
            commit: COMMIT.into(),
            files: BTreeMap::new(),
            faults: Vec::new(),
            requests: Vec::new(),
            bodies: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that hangs up is its own business.
                std::thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Self { address, state }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    pub fn add(&self, name: &str, body: &[u8]) {
        self.state
            .lock()
            .unwrap()
            .files
            .insert(name.into(), (body.to_vec(), false));
    }

    pub fn add_lfs(&self, name: &str, body: &[u8]) {
        self.state
            .lock()
            .unwrap()
            .files
            .insert(name.into(), (body.to_vec(), true));
    }

    pub fn remove(&self, name: &str) {
        self.state.lock().unwrap().files.remove(name);
    }

    pub fn set_revision(&self, revision: &str) {
        self.state.lock().unwrap().revision = revision.into();
    }

    pub fn set_commit(&self, commit: &str) {
        self.state.lock().unwrap().commit = commit.into();
    }

    /// Orders a fault for requests whose `METHOD PATH` contains `part`.
    pub fn set_fault(&self, part: &str, fault: Fault) {
        self.state.lock().unwrap().faults.push((part.into(), fault));
    }

    pub fn clear_faults(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    pub fn bodies(&self) -> Vec<String> {
        self.state.lock().unwrap().bodies.clone()
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An answer before it is written.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The file whose content the body is.
    file: Option<String>,
}

impl Answer {
    fn refusal(status: u16, code: &str, message: &str) -> Self {
        let headers = vec![
            ("x-error-code", code.to_string()),
            ("x-error-message", message.to_string()),
        ];
        let headers = headers
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self {
            status,
            headers,
            body: format!("{{\"error\":\"{message}\"}}").into_bytes(),
            file: None,
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut request = Request {
        method,
        path,
        token: None,
    };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            request.token = Some(value.trim().into());
        }
    }
    let (answer, fault) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let fault = state.take_fault(&request);
        let answer = match &fault {
            Some(Fault::Refuse {
                status,
                code,
                message,
            }) => Answer::refusal(*status, code, message),
            _ => state.answer(&request.path),
        };
        if request.method == "GET"
            && let Some(file) = &answer.file
        {
            state.bodies.push(file.clone());
        }
        (answer, fault)
    };
    write_answer(stream, &request, answer, fault)
}

fn write_answer(
    mut stream: TcpStream,
    request: &Request,
    mut answer: Answer,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    if let Some(Fault::Silence) = fault {
        // Until the client hangs up, at most as long as a test may take.
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let _ = stream.read(&mut [0; 1]);
        return Ok(());
    }
    if let Some(Fault::Body(body)) = &fault {
        answer.body = body.clone();
    }
    let mut head = format!(
        "HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        let end = if matches!(fault, Some(Fault::Cut { .. })) {
            answer.body.len() / 2
        } else {
            answer.body.len()
        };
        stream.write_all(answer.body.get(..end).unwrap_or_default())?;
    }
    stream.flush()?;
    stream.shutdown(Shutdown::Both)
}

impl State {
    fn take_fault(&mut self, request: &Request) -> Option<Fault> {
        let line = format!("{} {}", request.method, request.path);
        let (_, fault) = self
            .faults
            .iter_mut()
            .find(|(part, _)| line.contains(part.as_str()))?;
        match fault {
            Fault::Cut { times: 0 } => None,
            Fault::Cut { times } => {
                *times -= 1;
                Some(Fault::Cut { times: *times })
            }
            other => Some(other.clone()),
        }
    }

    fn answer(&self, path: &str) -> Answer {
        if let Some(sum) = path.strip_prefix("/cdn/") {
            return match self.files.iter().find(|(_, (body, _))| sha256(body) == sum) {
                Some((name, (body, _))) => Answer {
                    status: 200,
                    headers: Vec::new(),
                    body: body.clone(),
                    file: Some(name.clone()),
                },
                None => Answer::refusal(404, "", "no such object"),
            };
        }
        if let Some(rest) = path.strip_prefix("/api/models/") {
            return match rest.strip_prefix(&format!("{}/revision/", self.repo)) {
                Some(revision) if revision == self.revision || revision == self.commit => {
                    self.info()
                }
                Some(_) => Answer::refusal(404, "RevisionNotFound", "Invalid rev id"),
                None => Answer::refusal(404, "RepoNotFound", "Repository not found"),
            };
        }
        let file = path.strip_prefix(&format!("/{}/resolve/{}/", self.repo, self.commit));
        match file.and_then(|name| self.files.get_key_value(name)) {
            Some((name, (body, lfs))) => self.file(name, body, *lfs),
            None => Answer::refusal(404, "EntryNotFound", "Entry not found"),
        }
    }

    fn info(&self) -> Answer {
        let siblings: Vec<_> = self
            .files
            .keys()
            .map(|name| serde_json::json!({"rfilename": name}))
            .collect();
        let body = serde_json::json!({"_id": "1", "id": self.repo, "sha": self.commit, "gated": false, "siblings": siblings});
        let headers = vec![("content-type", "application/json".into())];
        Answer {
            status: 200,
            headers,
            body: body.to_string().into_bytes(),
            file: None,
        }
    }

    /// A small file is sent at once; one in LFS is a redirect, whose headers describe the file that is meant. Its address is absolute, as
    /// the hub's is: clients follow relative ones when they ask for headers.
    fn file(&self, name: &str, body: &[u8], lfs: bool) -> Answer {
        let sum = sha256(body);
        let commit = ("x-repo-commit", self.commit.clone());
        if lfs {
            let headers = vec![
                commit,
                ("location", format!("{}/cdn/{sum}", self.address)),
                ("x-linked-size", body.len().to_string()),
                ("x-linked-etag", format!("\"{sum}\"")),
                ("etag", "\"pointer\"".into()),
            ];
            return Answer {
                status: 302,
                headers,
                body: b"Found".to_vec(),
                file: None,
            };
        }
        let etag: String = sum.chars().take(40).collect();
        let headers = vec![commit, ("etag", format!("\"{etag}\""))];
        Answer {
            status: 200,
            headers,
            body: body.to_vec(),
            file: Some(name.into()),
        }
    }
}
