//! PostgreSQL: a small pool, and migrations that many instances may start at once.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{Client, Config, NoTls};

/// Longest wait for a free connection, then for a new one.
const WAIT: Duration = Duration::from_secs(5);
/// No statement of ours takes longer unless something is wrong.
const STATEMENT_LIMIT: &str = "-c statement_timeout=10s -c idle_in_transaction_session_timeout=30s";
/// Any number, the same in all roles: migrations of one database go one after the other.
const MIGRATION_LOCK: i64 = 7_046_029_254;

/// Flags of every role with a database, named as libpq names its variables.
#[derive(Debug, Clone, clap::Args)]
pub struct DbSettings {
    /// Host name, or the folder of a unix socket
    #[arg(long = "db-host", env = "PGHOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port
    #[arg(long = "db-port", env = "PGPORT", default_value = "5432")]
    pub port: u16,
    /// User
    #[arg(long = "db-user", env = "PGUSER", default_value = "postgres")]
    pub user: String,
    /// Password
    #[arg(long = "db-password", env = "PGPASSWORD", hide_env_values = true, default_value = "")]
    pub password: String,
    /// Database
    #[arg(long = "db-name", env = "PGDATABASE", default_value = "distribution")]
    pub name: String,
    /// Most connections of this process
    #[arg(long = "db-connections", env = "DB_CONNECTIONS", default_value = "8")]
    pub connections: usize,
}

impl DbSettings {
    fn config(&self) -> Config {
        let mut config = Config::new();
        config.host(&self.host).port(self.port).user(&self.user).dbname(&self.name).options(STATEMENT_LIMIT);
        config.application_name("distribution").connect_timeout(WAIT).tcp_user_timeout(Duration::from_secs(20));
        if !self.password.is_empty() {
            config.password(&self.password);
        }
        config
    }

    /// A connection of its own, with the stream of its messages for LISTEN.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn connect(
        &self,
    ) -> anyhow::Result<(Client, tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>)>
    {
        tokio::time::timeout(WAIT, self.config().connect(NoTls))
            .await
            .context("connect to PostgreSQL")?
            .map_err(Into::into)
    }
}

/// Connections shared by the tasks of a process.
#[derive(Clone)]
pub struct Pool {
    settings: Arc<DbSettings>,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Client>>>,
}

/// A connection, back in the pool when dropped.
pub struct Conn {
    client: Option<Client>,
    idle: Arc<Mutex<Vec<Client>>>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool without connections yet.
    pub fn new(settings: DbSettings) -> Self {
        let permits = Arc::new(Semaphore::new(settings.connections.max(1)));
        Pool { settings: Arc::new(settings), permits, idle: Arc::default() }
    }

    /// The settings it connects with.
    pub fn settings(&self) -> &DbSettings {
        &self.settings
    }

    /// A connection, idle or new.
    ///
    /// # Errors
    /// When none gets free in time or the database cannot be reached.
    pub async fn get(&self) -> anyhow::Result<Conn> {
        let permit = tokio::time::timeout(WAIT, self.permits.clone().acquire_owned()).await;
        let permit = permit.context("all database connections are busy")??;
        let client = match self.take_idle() {
            Some(client) => client,
            None => {
                let (client, connection) = self.settings.connect().await?;
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        let error = anyhow::Error::from(error);
                        tracing::warn!(error = format!("{error:#}"), "database connection lost");
                    }
                });
                client
            }
        };
        Ok(Conn { client: Some(client), idle: self.idle.clone(), _permit: permit })
    }

    fn take_idle(&self) -> Option<Client> {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        idle.retain(|client| !client.is_closed());
        idle.pop()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// Why not, fit for `/readyz`.
    pub async fn ping(&self) -> Result<(), String> {
        let ping = async { anyhow::Ok(self.get().await?.simple_query("select 1").await?) };
        match tokio::time::timeout(Duration::from_secs(2), ping).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("database: {error:#}")),
            Err(_) => Err("database: no answer in time".to_owned()),
        }
    }
}

impl Deref for Conn {
    type Target = Client;
    fn deref(&self) -> &Client {
        self.client.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("taken only when dropped")
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some(client) = self.client.take().filter(|client| !client.is_closed()) {
            self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(client);
        }
    }
}

/// Brings a schema up to date: each step once, in order, all instances one after the other.
///
/// # Errors
/// When the database cannot be reached or a step fails.
pub async fn migrate(settings: &DbSettings, schema: &str, steps: &[&str]) -> anyhow::Result<()> {
    let (mut client, connection) = settings.connect().await?;
    let drive = tokio::spawn(connection);
    // Waiting for the others may take longer than a statement may; the lock ends with the connection.
    client.batch_execute("set statement_timeout = '120s'").await?;
    client.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    let setup = format!(
        "create schema if not exists {schema};
         create table if not exists {schema}.migrations (step int primary key, applied_at timestamptz not null default now())"
    );
    client.batch_execute(&setup).await?;
    let newest = format!("select coalesce(max(step), 0) from {schema}.migrations");
    let done: i32 = client.query_one(&newest, &[]).await?.get(0);
    for (n, sql) in (1i32..).zip(steps).skip(usize::try_from(done)?) {
        let step = client.transaction().await?;
        step.batch_execute(&format!("set local search_path to {schema}; {sql}")).await?;
        step.execute(&format!("insert into {schema}.migrations (step) values ($1)"), &[&n]).await?;
        step.commit().await.with_context(|| format!("migration {n} of {schema}"))?;
        tracing::info!(schema, step = n, "migrated");
    }
    drop(client);
    drive.await??;
    Ok(())
}

/// Migrates as soon as the database can be reached; a database that is not there yet is no reason to crash.
pub async fn migrate_when_reachable(settings: &DbSettings, schema: &str, steps: &[&str]) {
    let mut wait = Duration::from_millis(200);
    while let Err(error) = migrate(settings, schema, steps).await {
        tracing::warn!(error = format!("{error:#}"), wait_ms = wait.as_millis() as u64, "database not ready");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(3));
    }
}
