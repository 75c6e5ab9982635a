//! `retort top`: a run in the terminal, live, with keys that control it.
//!
//! Two tasks bring events to one loop: states of the run from the coordinator, keys from the terminal. [`board::Board`] is
//! what is known and chosen, [`view`] draws it, and neither waits for anything.

mod board;
mod view;

use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use clap::Args as Arguments;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use retort_proto::pb;
use retort_tls::ClientFlags;
use tokio::sync::mpsc;

use self::board::{Board, Verb};
use crate::control::{self, Asked};
use crate::coordinator::Coordinator;
use crate::failure::{Failure, block_on};
use crate::status;

/// Events that wait to be shown; when full, whoever brings the next one waits.
const EVENTS: usize = 16;
/// Pause between two attempts to reach the coordinator, and between two looks for a newer run.
const AGAIN: Duration = Duration::from_secs(1);
/// States a second.
const RATE: f64 = 4.0;
/// How long the reader of keys waits before it looks whether anybody still wants them.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Arguments)]
pub(crate) struct Args {
    /// The coordinator, http://host:port or, with --tls, https://host:port; the newest local run's unless given.
    #[arg(long, env = retort_runtime::env::COORDINATOR)]
    coordinator: Option<String>,
    #[command(flatten)]
    tls: ClientFlags,
    /// Run to show; the newest unless given.
    #[arg(long, default_value = "")]
    run: String,
}

enum Event {
    State(Box<pb::RunStatus>),
    /// The coordinator is away; why.
    Away(String),
    Key(KeyEvent),
    Resized,
    /// What became of an order to the coordinator.
    Done(String),
}

pub(crate) fn command(args: Args) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::input(
            "retort top needs a terminal; elsewhere: retort status --watch",
        ));
    }
    let coordinator = status::named_or_local(args.coordinator, &args.tls)?;
    block_on(async move {
        // A wrong address, or nobody there, is told before the screen is taken.
        coordinator.reach().await?;
        let mut terminal = ratatui::try_init().context("take the terminal")?;
        let shown = show(&mut terminal, &coordinator, args.run).await;
        ratatui::restore();
        Ok(shown?)
    })
}

/// Until the user leaves.
async fn show(terminal: &mut DefaultTerminal, coordinator: &Coordinator, run: String) -> anyhow::Result<()> {
    let (events, mut inbox) = mpsc::channel(EVENTS);
    let keys = events.clone();
    std::thread::Builder::new()
        .name("keys".into())
        .spawn(move || read_keys(&keys))
        .context("start the reader of keys")?;
    let mut board = Board::default();
    let watching = watch(coordinator, run, events.clone());
    tokio::pin!(watching);
    loop {
        terminal
            .draw(|frame| view::draw(frame, &mut board))
            .context("draw")?;
        // Cancel-safe: a channel keeps what was not taken, and the watch goes on where it was.
        let event = tokio::select! {
            event = inbox.recv() => event.context("nobody sends events")?,
            never = &mut watching => match never {},
        };
        match event {
            Event::State(state) => board.show(*state),
            Event::Away(reason) => board.away(reason),
            Event::Done(message) => board.say(message),
            Event::Resized => {}
            Event::Key(key) => {
                if leaves(&key) {
                    return Ok(());
                }
                if let Some(verb) = board.press(key.code) {
                    let run = board.run().to_owned();
                    // Answers come within the client's deadlines; the screen stands still for that moment only.
                    let message = order(coordinator, run, verb).await;
                    let _ = events.try_send(Event::Done(message));
                }
            }
        }
    }
}

fn leaves(key: &KeyEvent) -> bool {
    key.code == KeyCode::Char('q')
        || (key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL))
}

fn read_keys(events: &mpsc::Sender<Event>) {
    while !events.is_closed() {
        let event = match event::poll(LOOK).and_then(|there| there.then(event::read).transpose()) {
            Ok(Some(Input::Key(key))) if key.kind == KeyEventKind::Press => Event::Key(key),
            Ok(Some(Input::Resize(..))) => Event::Resized,
            Ok(_) => continue,
            Err(e) => Event::Away(format!("the terminal cannot be read: {e}")),
        };
        if events.blocking_send(event).is_err() {
            return;
        }
    }
}

/// Brings the run's states for ever; of the newest run when none is named, also of one that is submitted later.
async fn watch(coordinator: &Coordinator, run: String, events: mpsc::Sender<Event>) -> Infallible {
    loop {
        let request = pb::WatchRunRequest {
            run: run.clone(),
            max_per_s: RATE,
            ..Default::default()
        };
        if let Err(e) = follow(coordinator, request, &events).await {
            // Nobody listens only when the screen is given back.
            let _ = events.send(Event::Away(format!("{e:#}"))).await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// One stream of states.
async fn follow(
    coordinator: &Coordinator,
    request: pb::WatchRunRequest,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let channel = coordinator.reach().await?;
    let answer = retort_client::status(channel).watch_run(request).await;
    let mut states = answer.map_err(plain)?.into_inner();
    while let Some(state) = states.message().await.map_err(plain)? {
        if events.send(Event::State(Box::new(state))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Gives an order, and says in words what became of it.
async fn order(coordinator: &Coordinator, run: String, verb: Verb) -> String {
    let said = verb.to_string();
    match give(coordinator, run, verb).await {
        Ok(()) => format!("{said}: done"),
        Err(e) => format!("{said}: {e:#}"),
    }
}

async fn give(coordinator: &Coordinator, run: String, verb: Verb) -> anyhow::Result<()> {
    let asked = match verb {
        Verb::Pause => Asked::Pause,
        Verb::Resume => Asked::Resume,
        Verb::Stop => Asked::Stop("asked for in retort top".to_owned()),
        Verb::Drain(worker) => Asked::Drain(worker),
    };
    control::give(coordinator.reach().await?, run, asked)
        .await
        .map_err(plain)
}

fn plain(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
