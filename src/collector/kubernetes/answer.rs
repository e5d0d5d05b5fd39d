//! Asks the API server and reads its answers, frame by frame.
//!
//! Invariants:
//! - Every wait has an end: for the head of an answer, and between two parts of it.
//! - An answer that is no success is read to a bound and becomes a [`Failure`].

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use tokio::time::timeout;

use super::connect::Connected;
use super::failure::Failure;
use super::object::Status;
use super::resource::Resource;

/// Objects in one page of a list.
pub(super) const PAGE_OBJECTS: u32 = 250;

/// How long a watch is asked for; servers end it then, and it goes on where it was.
const WATCH_S: (u32, u32) = (240, 50);

/// Longest wait for the head of an answer.
const HEAD_LONGEST: Duration = Duration::from_secs(30);

/// Longest silence within a list.
const LIST_SILENCE: Duration = Duration::from_secs(30);

/// Longest silence of a watch. A server that lives sends a bookmark about once a minute, and ends the watch when it was
/// asked to.
const WATCH_SILENCE: Duration = Duration::from_secs(310);

/// Bytes that are read of an answer which is no success.
const ERROR_BYTES_MAX: usize = 16 << 10;

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    silence: Duration,
}

/// The part of a resource that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    /// The resource.
    pub(super) resource: &'static Resource,
    /// The namespace; empty: all.
    pub(super) namespace: String,
    /// A selector of fields; empty: all.
    pub(super) fields: String,
}

impl Selection {
    /// All of a resource that this selector of fields does not exclude.
    #[must_use]
    pub(super) fn new(resource: &'static Resource, fields: impl Into<String>) -> Self {
        Self { resource, namespace: resource.namespace.to_owned(), fields: fields.into() }
    }

    fn fields(&self) -> Option<String> {
        (!self.fields.is_empty()).then(|| self.fields.clone())
    }

    /// Asks for a page of a list; `next` is what the page before said.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn list(&self, connected: &Connected, next: Option<String>) -> Result<Answer, Failure> {
        let parameters = ListParams {
            field_selector: self.fields(),
            limit: Some(PAGE_OBJECTS),
            continue_token: next,
            ..ListParams::default()
        };
        let request = Request::new(self.resource.path_in(&self.namespace));
        let request = if self.resource.metadata_only {
            request.list_metadata(&parameters)
        } else {
            request.list(&parameters)
        };
        let request = request.map_err(|error| Failure::Garbled(error.to_string()))?;
        ask(connected, request.map(Body::from), LIST_SILENCE).await
    }

    /// Asks for every change after a version. `spread` makes watches end at different times.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn watch(
        &self,
        connected: &Connected,
        version: &str,
        spread: u64,
    ) -> Result<Answer, Failure> {
        let spread = u32::try_from(spread % u64::from(WATCH_S.1)).unwrap_or(0);
        let parameters = WatchParams {
            field_selector: self.fields(),
            timeout: Some(WATCH_S.0 + spread),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(self.resource.path_in(&self.namespace));
        let request = if self.resource.metadata_only {
            request.watch_metadata(&parameters, version)
        } else {
            request.watch(&parameters, version)
        };
        let request = request.map_err(|error| Failure::Garbled(error.to_string()))?;
        ask(connected, request.map(Body::from), WATCH_SILENCE).await
    }
}

/// The type of a request of `kube`, whose crate of HTTP types is not ours to name.
type Asked = axum::http::Request<Body>;

async fn ask(connected: &Connected, request: Asked, silence: Duration) -> Result<Answer, Failure> {
    let answer = timeout(HEAD_LONGEST, connected.client.send(request)).await;
    let answer = answer.map_err(|_| Failure::Unreachable(format!("no answer within {HEAD_LONGEST:?}")))?;
    let response = answer.map_err(|error| Failure::of(&error))?;
    let status = response.status();
    let wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let mut answer = Answer { body: response.into_body(), silence };
    if status.is_success() {
        return Ok(answer);
    }
    let text = answer.error_text().await;
    let said: Status = serde_json::from_slice(&text).unwrap_or_default();
    let plain = String::from_utf8_lossy(&text);
    let message = said.message.as_deref().unwrap_or(&plain);
    Err(Failure::of_status(status.as_u16(), message, wait.map(Duration::from_secs)))
}

impl Answer {
    /// What arrives next; none at the end.
    ///
    /// # Errors
    /// [`Failure::Torn`] when it breaks off or nothing comes for too long.
    pub(super) async fn part(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout(self.silence, self.body.frame()).await;
            let frame = frame.map_err(|_| Failure::Torn(format!("silence for {:?}", self.silence)))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Torn(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    async fn error_text(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        while let Ok(Some(part)) = self.part().await {
            text.extend_from_slice(&part[..part.len().min(ERROR_BYTES_MAX - text.len())]);
            if text.len() >= ERROR_BYTES_MAX {
                break;
            }
        }
        text
    }
}
