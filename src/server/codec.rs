//! The gRPC service by hand: requests stay bytes, so that a batch is stored as it came.
//!
//! Invariants:
//! - A message is taken out of the receive buffer without a copy.
//! - No compression, and no message beyond [`REQUEST_BYTES_MAX`].

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Status, Streaming};

use super::ingest::Ingest;
use super::message::REQUEST_BYTES_MAX;
use crate::proto::StreamEventsResponse;

/// The path of the one method.
const STREAM_EVENTS: &str = "/tapio.v1.CollectorService/StreamEvents";

/// Largest answer; answers are tiny.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// Requests as bytes, answers as messages.
#[derive(Debug, Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = StreamEventsResponse;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = StreamEventsResponse;
    type Error = Status;

    fn encode(&mut self, item: StreamEventsResponse, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// `tapio.v1.CollectorService` for tonic's router.
#[derive(Debug, Clone)]
pub struct CollectorService {
    ingest: Arc<Ingest>,
}

impl CollectorService {
    /// The service of this ingest.
    #[must_use]
    pub fn new(ingest: Arc<Ingest>) -> Self {
        Self { ingest }
    }
}

impl NamedService for CollectorService {
    const NAME: &'static str = crate::proto::collector_service_server::SERVICE_NAME;
}

/// The one method.
struct StreamEvents(Arc<Ingest>);

impl StreamingService<Bytes> for StreamEvents {
    type Response = StreamEventsResponse;
    type ResponseStream = ReceiverStream<Result<StreamEventsResponse, Status>>;
    type Future = BoxFuture<tonic::Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let responses = Ingest::start(&self.0, request.into_inner());
        Box::pin(async move { responses.map(tonic::Response::new) })
    }
}

impl<B> Service<http::Request<B>> for CollectorService
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != STREAM_EVENTS {
            return Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) });
        }
        let method = StreamEvents(Arc::clone(&self.ingest));
        Box::pin(async move {
            let mut grpc = Grpc::new(RawCodec)
                .apply_max_message_size_config(Some(REQUEST_BYTES_MAX), Some(RESPONSE_BYTES_MAX));
            Ok(grpc.streaming(method, request).await)
        })
    }
}
