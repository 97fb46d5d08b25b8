//! Anything in any order.

use super::meetings::wish;
use super::*;
use crate::rendezvous::number_of;

#[derive(Clone, Debug)]
enum Step {
    Up {
        attachment: u64,
    },
    Down {
        which: prop::sample::Index,
    },
    Detach {
        attachment: u64,
    },
    Publish {
        attachment: u64,
        service: i64,
    },
    Withdraw {
        service: i64,
    },
    Open {
        which: prop::sample::Index,
        route: u32,
    },
    Answer {
        which: prop::sample::Index,
        service: Option<i64>,
    },
    Gone {
        which: prop::sample::Index,
    },
    Answered {
        which: prop::sample::Index,
    },
    Recheck {
        service: i64,
    },
    ShutOut {
        machine: i64,
    },
    Meet {
        attachment: u64,
        user: i64,
    },
    Part {
        attachment: u64,
        user: i64,
    },
    Wait {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        3 => (1u64..4).prop_map(|attachment| Step::Up { attachment }),
        1 => which().prop_map(|which| Step::Down { which }),
        1 => (1u64..4).prop_map(|attachment| Step::Detach { attachment }),
        2 => ((1u64..4), (1i64..3)).prop_map(|(attachment, service)| Step::Publish { attachment, service }),
        1 => (1i64..3).prop_map(|service| Step::Withdraw { service }),
        6 => (which(), 0u32..12).prop_map(|(which, route)| Step::Open { which, route }),
        6 => (which(), prop::option::weighted(0.8, 1i64..3))
            .prop_map(|(which, service)| Step::Answer { which, service }),
        2 => which().prop_map(|which| Step::Gone { which }),
        1 => which().prop_map(|which| Step::Answered { which }),
        1 => (1i64..3).prop_map(|service| Step::Recheck { service }),
        1 => (1i64..4).prop_map(|machine| Step::ShutOut { machine }),
        2 => ((1u64..4), (0i64..4)).prop_map(|(attachment, user)| Step::Meet { attachment, user }),
        1 => ((1u64..4), (0i64..4)).prop_map(|(attachment, user)| Step::Part { attachment, user }),
        2 => (0u64..25).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// Random inputs, some of them nonsense, and what must hold after each of them.
struct Storm {
    driver: Driver,
    links_of: HashMap<u64, Vec<u64>>,
    next_link: u64,
}

impl Storm {
    fn pick<T: Copy + Ord>(all: impl Iterator<Item = T>, which: prop::sample::Index) -> Option<T> {
        let mut all: Vec<T> = all.collect();
        all.sort_unstable();
        (!all.is_empty()).then(|| all[which.index(all.len())])
    }

    fn take(&mut self, step: Step) {
        let driver = &mut self.driver;
        match step {
            Step::Up { attachment } => {
                if driver.hub.member(AttachmentId(attachment)).is_none() {
                    driver.attach(attachment);
                }
                self.next_link += 1;
                self.links_of
                    .entry(attachment)
                    .or_default()
                    .push(self.next_link);
                driver.up(attachment, self.next_link);
            }
            Step::Down { which } => {
                if let Some(link) = Self::pick(driver.links.iter().copied(), which) {
                    driver.down(link.0);
                }
            }
            Step::Detach { attachment } => {
                let links = self.links_of.remove(&attachment).unwrap_or_default();
                driver.detached(attachment, &links);
            }
            Step::Publish {
                attachment,
                service,
            } => {
                let attached = driver.hub.member(AttachmentId(attachment)).is_some();
                let published = driver.publish(attachment, ServiceId(service));
                assert_eq!(published.is_ok(), attached);
            }
            Step::Withdraw { service } => {
                driver.hub.withdraw(ServiceId(service));
                driver.drain();
            }
            Step::Open { which, route } => self.open(which, route),
            Step::Answer { which, service } => {
                if !driver.checks.is_empty() {
                    let at = which.index(driver.checks.len());
                    let check = driver.checks.swap_remove(at);
                    // A service, or the place of somebody who waits for the first user.
                    let place = number_of(&wish(2, Some(1)).place());
                    let verdict = service.map(|id| match id {
                        2 => grant(place),
                        id => grant(ServiceId(id)),
                    });
                    let verdict = verdict.ok_or_else(|| Refusal::of(Code::Denied));
                    driver.hub.verdict(check.check, verdict, driver.now);
                    driver.drain();
                }
            }
            Step::Gone { which } => {
                if let Some(end) = Self::pick(driver.ends.keys().copied(), which) {
                    driver.gone(end, Code::Cancelled);
                    driver.gone(end, Code::Cancelled);
                }
            }
            Step::Answered { which } => {
                if let Some(end) = Self::pick(driver.ends.keys().copied(), which) {
                    driver.hub.answered(end);
                }
            }
            Step::Recheck { service } => {
                driver.hub.recheck(ServiceId(service));
                driver.drain();
            }
            Step::ShutOut { machine } => {
                let links = self.links_of.remove(&(machine as u64)).unwrap_or_default();
                for link in links {
                    driver.links.remove(&LinkId(link));
                    driver.ends.retain(|end, _| end.link != LinkId(link));
                }
                driver
                    .hub
                    .shut_out(MachineId(machine), &Refusal::of(Code::Ended));
                driver.drain();
            }
            Step::Meet { attachment, user } => {
                let wish = wish(attachment, (user != 0).then_some(user));
                let attached = driver.hub.member(AttachmentId(attachment)).is_some();
                let met = driver.hub.meet(wish, driver.now);
                driver.drain();
                assert_eq!(met.is_ok(), attached);
            }
            Step::Part { attachment, user } => {
                let wish = wish(attachment, (user != 0).then_some(user));
                driver.hub.part(&wish.place(), [0; 16]);
                driver.drain();
            }
            Step::Wait { seconds } => driver.wait(Duration::from_secs(seconds)),
        }
    }

    /// Opens a route and checks that an end in use, or not the agent's to pick, is left alone.
    fn open(&mut self, which: prop::sample::Index, route: u32) {
        let driver = &mut self.driver;
        let Some(link) = Self::pick(driver.links.iter().copied(), which) else {
            return;
        };
        let end = RouteEnd { link, route };
        let (before, cut) = (driver.ends.get(&end).copied(), driver.cut.len());
        driver.open(link.0, route);
        let wrong = before.is_some() || route % 2 == 1;
        assert_eq!(driver.cut.len() > cut, wrong);
        if let Some(before) = before {
            assert_eq!(driver.ends.get(&end), Some(&before));
        } else if wrong {
            driver.ends.remove(&end);
        }
    }

    fn check(&self) {
        let (driver, hub) = (&self.driver, &self.driver.hub);
        let near = driver.ends.keys().filter(|end| end.route % 2 == 0).count();
        assert_eq!(
            hub.routes.len(),
            near,
            "a route for each end kept, and the other way round"
        );
        let tables: usize = hub.links.values().map(|entry| entry.routes.len()).sum();
        assert_eq!(tables, driver.ends.len());
        let ends: usize = hub.attachments.values().map(|it| it.route_ends).sum();
        assert_eq!(ends, driver.ends.len());
        let waiting: usize = hub.waiting.values().map(VecDeque::len).sum();
        assert_eq!(waiting, hub.waiting_count);
        let unjoined: usize = hub.attachments.values().map(|it| it.unjoined).sum();
        assert_eq!(
            unjoined,
            driver.ends.values().filter(|other| other.is_none()).count()
        );
        assert_eq!(hub.checks.len(), driver.checks.len());
        assert_eq!(hub.links.len(), driver.links.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_route_leaks_and_every_open_is_answered(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let driver = Driver::new(Limits { waiting: 4, waiting_per_attachment: 5, ..Limits::default() });
        let mut storm = Storm { driver, links_of: HashMap::new(), next_link: 0 };
        for step in steps {
            storm.take(step);
            storm.check();
        }
        let driver = &mut storm.driver;
        driver.answer_all(Ok(grant(DB)));
        driver.wait(Duration::from_secs(100));
        prop_assert!(driver.ends.values().all(Option::is_some), "every open was answered");
        for link in driver.links.clone() {
            driver.down(link.0);
        }
        prop_assert!(driver.ends.is_empty());
        for id in 1..4 {
            driver.detached(id, &[]);
        }
        prop_assert_eq!(driver.hub.load(), Load::default());
        prop_assert!(driver.hub.alarms.is_empty() && driver.hub.waiting.is_empty());
        prop_assert!(driver.hub.checks.is_empty());
    }
}
