//! Telnet, MQTT and LDAP.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use underpass_lab::exec;

use crate::Row;
use crate::place::{LIMIT, Place, Talk, run, text};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row {
            client: "telnet",
            server: "telnetd (inetutils)",
            published: "HOST:23",
            shown: "a shell: what is typed is run there",
            needs: &["telnet", "telnetd"],
            work: telnet,
        },
        Row {
            client: "mosquitto_sub, mosquitto_pub",
            server: "mosquitto",
            published: "HOST:1883",
            shown: "100 messages, each delivered once and in order (QoS 2)",
            needs: &["mosquitto", "mosquitto_sub", "mosquitto_pub"],
            work: mqtt,
        },
        Row {
            client: "ldapadd, ldapsearch",
            server: "slapd",
            published: "HOST:389",
            shown: "200 entries written, and found again",
            needs: &["slapd", "ldapadd", "ldapsearch"],
            work: ldap,
        },
    ]
}

/// telnetd wants a connection as its standard input, as inetd gives it.
fn telnet(place: &Place) -> Result<()> {
    let listener = {
        let at = place.target("telnet");
        place.a().inside(move || TcpListener::bind(at))??
    };
    let mut telnetd = place.a().command("telnetd");
    telnetd.args(["-h", "-E", "/bin/sh"]);
    let serving = std::thread::spawn(move || -> Result<()> {
        let (stream, _) = listener.accept()?;
        let mut child = telnetd
            .stdin(std::os::fd::OwnedFd::from(stream.try_clone()?))
            .stdout(std::os::fd::OwnedFd::from(stream))
            .stderr(Stdio::null())
            .spawn()?;
        child.wait()?;
        Ok(())
    });
    let at = place.at("telnet");
    let mut command = place.b().command("telnet");
    command.args([at.ip().to_string(), at.port().to_string()]);
    let mut telnet = Talk::start(command)?;
    let mut input = telnet.input()?;
    input.write_all(b"echo six times seven is $((6*7)); exit\n")?;
    let said = telnet.ends()?;
    drop(input);
    ensure!(said.contains("six times seven is 42"), "{said}");
    serving.join().expect("serving does not panic")
}

fn mqtt(place: &Place) -> Result<()> {
    let folder = place.folder("mqtt")?;
    let (config, at) = (folder.join("mosquitto.conf"), place.target("queue"));
    let lines = format!(
        "listener {} {}\nallow_anonymous true\nlog_type all\n",
        at.port(),
        at.ip()
    );
    std::fs::write(&config, lines)?;
    let mut command = place.a().command("mosquitto");
    command.arg("-c").arg(&config);
    let server = place.serve("queue", command)?;
    let client = |program: &str| {
        let at = place.at("queue");
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let mut command = place.b().command(program);
        command.args(["-h", &ip, "-p", &port, "-t", "lab/row", "-q", "2"]);
        command
    };
    let mut listening = client("mosquitto_sub");
    let listening = Talk::start({
        listening.args(["-C", "100"]);
        listening
    })?;
    server.logged("Sending SUBACK", LIMIT)?;
    let messages: String = (0..100)
        .map(|number| format!("message {number}\n"))
        .collect();
    let mut publish = client("mosquitto_pub");
    publish.args(["-l"]);
    exec::output_with_input(&mut publish, messages.as_bytes(), LIMIT)?.success()?;
    let heard = listening.ends()?;
    ensure!(heard == messages, "{heard}");
    Ok(())
}

fn ldap(place: &Place) -> Result<()> {
    let folder = place.folder("ldap")?;
    let (config, data) = (folder.join("slapd.conf"), folder.join("data"));
    std::fs::create_dir(&data)?;
    std::fs::write(
        &config,
        format!(
            "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_ldif\n\
             pidfile {}\ndatabase ldif\nsuffix \"dc=lab\"\nrootdn \"cn=admin,dc=lab\"\nrootpw secret\ndirectory {}\n",
            text(&folder.join("pid")),
            text(&data)
        ),
    )?;
    let at = place.target("people");
    let mut command = place.a().command("slapd");
    command.args([
        "-d",
        "0",
        "-h",
        &format!("ldap://{at}"),
        "-f",
        text(&config),
    ]);
    let _server = place.serve("people", command)?;
    let url = format!("ldap://{}", place.at("people"));
    let mut entries = String::from(
        "dn: dc=lab\nobjectClass: organization\nobjectClass: dcObject\ndc: lab\no: lab\n",
    );
    for number in 0..200 {
        entries += &format!(
            "\ndn: cn=user{number},dc=lab\nobjectClass: person\ncn: user{number}\nsn: surname{number}\n"
        );
    }
    let mut add = place.b().command("ldapadd");
    add.args(["-x", "-H", &url, "-D", "cn=admin,dc=lab", "-w", "secret"]);
    exec::output_with_input(&mut add, entries.as_bytes(), LIMIT)?.success()?;
    let search = |filter: &str| -> Result<String> {
        let mut command: Command = place.b().command("ldapsearch");
        command.args(["-x", "-LLL", "-H", &url, "-b", "dc=lab", filter, "sn"]);
        Ok(run(&mut command)?.text())
    };
    let one = search("(cn=user77)")?;
    ensure!(one.contains("sn: surname77"), "{one}");
    let all = search("(objectClass=person)")?;
    ensure!(all.matches("\nsn: surname").count() == 200, "{all}");
    Ok(())
}
