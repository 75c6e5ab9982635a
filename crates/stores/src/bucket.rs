//! Named values in a bucket, below a prefix: what a coordinator keeps versions in.

use std::future::Future;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use retort_data::Location;
use tokio::runtime::Runtime;
use tracing::warn;

use crate::FetchError;
use crate::settings::Settings;

/// A part of a bucket. Cheap to clone. Calls block, for as long as the store and the retries take (`FetchError::Away` comes within
/// half a minute); they may be made from any thread.
#[derive(Debug, Clone)]
pub struct Bucket {
    store: Arc<AmazonS3>,
    prefix: String,
    url: String,
    runtime: Arc<Own>,
}

/// The runtime that speaks with the store.
#[derive(Debug)]
struct Own(Option<Runtime>);

impl Drop for Own {
    fn drop(&mut self) {
        // The last clone may go on a thread that must not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    /// What an `s3://BUCKET/PREFIX` names; nobody is asked yet.
    ///
    /// # Errors
    /// It is no such URL, or the `environment` lacks credentials.
    pub fn new(
        url: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, FetchError> {
        let Ok(Location::S3 { bucket, prefix }) = url.parse() else {
            return Err(FetchError::Settings(format!(
                "{url:?}: expected s3://BUCKET/PREFIX"
            )));
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.map_err(|e| FetchError::Settings(format!("start a runtime: {e}")))?;
        Ok(Self {
            store: Arc::new(Settings::new(environment).s3(&bucket)?),
            prefix,
            url: url.trim_end_matches('/').to_owned(),
            runtime: Arc::new(Own(Some(runtime))),
        })
    }

    /// Runs it on the bucket's own runtime and waits, whether the caller is on one or not.
    fn wait<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        self.spawn(async move {
            let _ = done.send(call.await); // somebody waits below
        });
        result
            .recv()
            .expect("the task sends, and the runtime lives as long as this")
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime
            .0
            .as_ref()
            .expect("taken when it is dropped only")
            .spawn(work);
    }

    fn key(&self, name: &str) -> Key {
        Key::from_iter(
            self.prefix
                .split('/')
                .chain(name.split('/'))
                .filter(|part| !part.is_empty()),
        )
    }

    fn failed(&self, name: &str) -> impl FnOnce(Error) -> FetchError + use<> {
        let what = format!("{}/{name}", self.url);
        move |e| FetchError::of(&e, &what)
    }

    /// The value of a name, if there is one.
    pub fn get(&self, name: &str) -> Result<Option<Bytes>, FetchError> {
        let (store, key, failed) = (self.store.clone(), self.key(name), self.failed(name));
        self.wait(async move { value(&store, &key).await.map_err(failed) })
    }

    /// Makes or replaces a value.
    pub fn put(&self, name: &str, value: Bytes) -> Result<(), FetchError> {
        let (store, key, failed) = (self.store.clone(), self.key(name), self.failed(name));
        self.wait(async move { store.put(&key, value.into()).await.map(|_| ()).map_err(failed) })
    }

    /// Makes a value where there is none. `false`: there is one.
    pub fn create(&self, name: &str, value: Bytes) -> Result<bool, FetchError> {
        let (store, key, failed) = (self.store.clone(), self.key(name), self.failed(name));
        self.wait(async move {
            match store.put_opts(&key, value.into(), PutMode::Create.into()).await {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                Err(e) => Err(failed(e)),
            }
        })
    }

    /// Removes a value, if there is one.
    pub fn remove(&self, name: &str) -> Result<(), FetchError> {
        let (store, key, failed) = (self.store.clone(), self.key(name), self.failed(name));
        self.wait(async move {
            match store.delete(&key).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(failed(e)),
            }
        })
    }

    /// All names below `folder`, without it.
    pub fn list(&self, folder: &str) -> Result<Vec<String>, FetchError> {
        let (store, prefix, failed) = (self.store.clone(), self.key(folder), self.failed(folder));
        self.wait(async move {
            let all = store.list(Some(&prefix)).map_ok(|object| object.location);
            let all: Vec<Key> = all.try_collect().await.map_err(failed)?;
            let name = |key: Key| {
                let parts: Vec<String> = key
                    .prefix_match(&prefix)?
                    .map(|part| part.as_ref().to_owned())
                    .collect();
                Some(parts.join("/"))
            };
            Ok(all.into_iter().filter_map(name).collect())
        })
    }

    /// Removes the values that others name, in the background: what can't be removed stays, which the log says.
    pub fn remove_named_by(&self, names: Vec<String>, named: impl Fn(&[u8]) -> Vec<String> + Send + 'static) {
        let this = self.clone();
        self.spawn(async move {
            for name in names {
                match value(&this.store, &this.key(&name)).await {
                    Ok(Some(bytes)) => this.remove_all(named(&bytes)).await,
                    Ok(None) => {}
                    Err(e) => warn!("what {}/{name} names was not removed: {e}", this.url),
                }
            }
        });
    }

    /// Removes values, in the background: what can't be removed stays, which the log says.
    pub fn remove_later(&self, names: Vec<String>) {
        let this = self.clone();
        self.spawn(async move { this.remove_all(names).await });
    }

    async fn remove_all(&self, names: Vec<String>) {
        for name in names {
            match self.store.delete(&self.key(&name)).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(e) => warn!("{}/{name} was not removed: {e}", self.url),
            }
        }
    }
}

async fn value(store: &AmazonS3, key: &Key) -> Result<Option<Bytes>, Error> {
    match store.get(key).await {
        Ok(object) => object.bytes().await.map(Some),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
