use proptest::prelude::*;

use super::*;

fn network(networks: &str, ports: &str, hosts: &str) -> Network {
    Network::parse(networks, ports, hosts).unwrap()
}

fn to(text: &str) -> FarPort {
    text.parse().unwrap()
}

fn addresses(list: &str) -> Vec<IpAddr> {
    let given = list.split(' ').filter(|it| !it.is_empty());
    given.map(|it| it.parse().unwrap()).collect()
}

#[test]
fn lists_are_read_and_told() {
    for (networks, ports, hosts, told) in [
        ("10.0.0.0/8", "22", "", "10.0.0.0/8 ports 22"),
        (
            "10.0.0.0/8, fd00::/8",
            "22,443,8000-8099",
            "DB.corp, *.lab.corp",
            "10.0.0.0/8,fd00::/8 ports 22,443,8000-8099 hosts db.corp,*.lab.corp",
        ),
        (
            "0.0.0.0/0",
            "1-65535",
            "*",
            "0.0.0.0/0 ports 1-65535 hosts *",
        ),
        ("192.0.2.7", "22", "", "192.0.2.7/32 ports 22"),
    ] {
        assert_eq!(network(networks, ports, hosts).to_string(), told);
    }
    for (networks, ports, hosts) in [
        ("", "22", ""),
        ("lan", "22", ""),
        ("10.0.0.0/8,", "22", ""),
        ("10.0.0.0/33", "22", ""),
        ("10.0.0.0/8", "", ""),
        ("10.0.0.0/8", "0", ""),
        ("10.0.0.0/8", "ssh", ""),
        ("10.0.0.0/8", "+22", ""),
        ("10.0.0.0/8", "443-22", ""),
        ("10.0.0.0/8", "22,,23", ""),
        ("10.0.0.0/8", "1-2-3", ""),
        ("10.0.0.0/8", "22", "a,,b"),
        ("10.0.0.0/8", "22", "*corp"),
        ("10.0.0.0/8", "22", "a.*.corp"),
        ("10.0.0.0/8", "22", "a_b"),
        ("127.0.0.0/8", "22", ""),
        ("10.0.0.0/8,127.1.0.0/16", "22", ""),
        ("169.254.169.254", "80", ""),
        ("::1", "22", ""),
        ("::ffff:10.0.0.0/104", "22", ""),
        ("fe80::/64", "22", ""),
        ("fd00:ec2::254", "80", ""),
    ] {
        assert!(
            Network::parse(networks, ports, hosts).is_err(),
            "{networks} {ports} {hosts}"
        );
    }
}

#[test]
fn ports_and_names_before_anybody_is_asked() {
    let listed = network("10.0.0.0/8", "22,8000-8002", "db.corp,*.lab.corp");
    for (asked, expected) in [
        ("10.0.0.7:22", Ok(())),
        ("[fd00::7]:22", Ok(())),
        ("10.0.0.7:8001", Ok(())),
        ("10.0.0.7:8003", Err(Code::PortNotListed)),
        ("10.0.0.7:7999", Err(Code::PortNotListed)),
        ("db.corp:22", Ok(())),
        ("db.corp:23", Err(Code::PortNotListed)),
        ("a.lab.corp:22", Ok(())),
        ("a.b.lab.corp:22", Ok(())),
        ("lab.corp:22", Err(Code::HostNotListed)),
        ("xlab.corp:22", Err(Code::HostNotListed)),
        ("x.db.corp:22", Err(Code::HostNotListed)),
        ("db:22", Err(Code::HostNotListed)),
    ] {
        let admitted = listed.admit(&to(asked)).map_err(|it| it.code());
        assert_eq!(admitted, expected, "{asked}");
    }
    // Without a list of names there are none; with the one for all, all.
    let nameless = network("10.0.0.0/8", "22", "");
    assert!(nameless.admit(&to("db.corp:22")).is_err());
    assert!(network("10.0.0.0/8", "22", "*").admit(&to("db:22")).is_ok());
}

#[test]
fn what_is_found_is_dialled_only_where_it_is_listed() {
    let listed = network("10.0.0.0/8,fd00::/8", "22", "*");
    let own = addresses("10.0.0.1 fd00::1");
    for (found, expected) in [
        ("10.0.0.7", Ok("10.0.0.7")),
        ("fd00::7 10.0.0.7", Ok("fd00::7 10.0.0.7")),
        // A host that has another address as well is reached by the one that is published.
        ("198.51.100.7 10.0.0.7", Ok("10.0.0.7")),
        ("2001:db8::7 10.0.0.7", Ok("10.0.0.7")),
        ("198.51.100.7", Err(Code::HostNotListed)),
        ("11.0.0.7", Err(Code::HostNotListed)),
        ("", Err(Code::HostUnknown)),
        // What is never reached spoils the rest.
        ("10.0.0.7 127.0.0.1", Err(Code::HostForbidden)),
        ("10.0.0.7 169.254.169.254", Err(Code::HostForbidden)),
        ("10.0.0.1", Err(Code::HostForbidden)),
        ("10.0.0.7 10.0.0.1", Err(Code::HostForbidden)),
        ("fd00::1", Err(Code::HostForbidden)),
        ("fd00:ec2::254", Err(Code::HostForbidden)),
        // Only by its own form is an address in a network.
        ("::ffff:10.0.0.7", Err(Code::HostForbidden)),
    ] {
        let chosen = listed.choose(&to("db:22"), &addresses(found), |it| own.contains(&it));
        let expected = expected.map(addresses);
        assert_eq!(chosen.map_err(|it| it.code()), expected, "{found}");
    }
}

#[test]
fn some_addresses_are_never_reached_whatever_is_listed() {
    let all = network("0.0.0.0/0,::/0", "1-65535", "*");
    let reached = |address: &str| {
        let chosen = all.choose(&to("db:22"), &addresses(address), |_| false);
        chosen.map_err(|it| it.code())
    };
    for never in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.7",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2001:0:1::1",
        "2002:7f00:1::",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd20:ce::254",
    ] {
        assert_eq!(reached(never), Err(Code::HostForbidden), "{never}");
    }
    for other in [
        "1.1.1.1",
        "10.0.0.1",
        "100.64.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "192.0.1.1",
        "223.255.255.255",
        "2001:db8::1",
        "2003::1",
        "fd00::1",
        "fd00:ec2::253",
    ] {
        assert_eq!(reached(other), Ok(addresses(other)), "{other}");
    }
}

proptest! {
    /// Whatever is found, what is dialled was found, is listed, and is never one of those that are not reached.
    #[test]
    fn nothing_is_dialled_that_is_not_listed(
        four in prop::collection::vec(any::<u32>(), 0..4),
        six in prop::collection::vec(any::<u128>(), 0..4),
        near in any::<u8>(),
    ) {
        let listed = network("10.0.0.0/8,::/0", "22", "*");
        let mut found: Vec<IpAddr> = four.into_iter().map(|it| IpAddr::from(it.to_be_bytes())).collect();
        found.extend(six.into_iter().map(|it| IpAddr::from(it.to_be_bytes())));
        found.push(IpAddr::from([10, 0, 0, near]));
        let own = IpAddr::from([10, 0, 0, 7]);
        match listed.choose(&to("db:22"), &found, |it| it == own) {
            Ok(chosen) => {
                prop_assert!(!chosen.is_empty() && !found.contains(&own));
                for address in chosen {
                    prop_assert!(found.contains(&address) && never::why(address).is_none());
                    prop_assert!(address.is_ipv6() || address.to_string().starts_with("10."));
                }
            }
            Err(refusal) => {
                let spoilt = found.iter().any(|it| *it == own || never::why(*it).is_some());
                prop_assert_eq!(refusal.code() == Code::HostForbidden, spoilt);
            }
        }
    }
}
