//! Every image that the cases pull, under the name by which they pull it.

use serde_json::json;

use super::parts::Parts;
use crate::built;
use crate::images::{Image, ImageBuilder};
use crate::layers::Layer;
use crate::registry::Registry;

/// The registries in the names of the images; all are mirrored by one registry of ours.
pub const HOSTS: [&str; 3] = ["registry.k8s.io", "gcr.io", "k8s.gcr.io"];

/// Where most of the cases' images are, below `registry.k8s.io`.
const TESTS: &str = "e2e-test-images";
/// Where the images about images are, below `gcr.io`.
const TOOLS: &str = "k8s-staging-cri-tools";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      www-data:x:33:33:www-data:/var/www:/bin/false\n\
                      nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// Makes all images and offers them.
///
/// # Panics
/// When a part is missing.
pub fn publish(registry: &Registry, parts: &Parts) {
    let base = base(parts);
    let offer = |repository: &str, name: &str, tag: &str, image: ImageBuilder| {
        registry.publish(&format!("{repository}/{name}"), tag, &image.build());
    };
    offer(TESTS, "busybox", "1.29-2", base.clone());
    offer(TESTS, "nginx", "1.14-2", nginx(&base, parts, 80));
    offer(TESTS, "httpd", "2.4.39-4", httpd(&base, parts));
    offer(TESTS, "nonewprivs", "1.3", setuid(&base));
    let hostnet = format!("hostnet-nginx-{}", crate::images::architecture());
    offer(TOOLS, &hostnet, "latest", nginx(&base, parts, 12003));

    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
    ] {
        offer(
            TOOLS,
            name,
            "latest",
            marked(&base, name).config("User", json!(user)),
        );
    }
    offer(
        TOOLS,
        "test-image-predefined-group",
        "latest",
        predefined_group(&base),
    );
    for name in [
        "test-image-1",
        "test-image-2",
        "test-image-3",
        "test-image-latest",
    ] {
        offer(TOOLS, name, "latest", marked(&base, name));
    }
    for tag in ["1", "2", "3"] {
        offer(TOOLS, "test-image-tags", tag, marked(&base, "test-image-tags"));
    }
    for tag in ["test", "all"] {
        offer(
            TOOLS,
            "test-image-tag",
            tag,
            marked(&base, &format!("test-image-tag:{tag}")),
        );
    }
    // One registry stands for both hosts in whose name the cases ask for it.
    registry.publish("pause", "3.9", &pause().build());
}

/// The base with a file that says which image it is, so that each has an id of its own.
fn marked(base: &ImageBuilder, name: &str) -> ImageBuilder {
    base.clone().layer(Layer::new().file("image", 0o644, name))
}

/// busybox under the names of its applets. Hard links, not symbolic ones: a case that masks `/bin/ls` must not mask
/// every other program with it.
fn base(parts: &Parts) -> ImageBuilder {
    let mut layer = Layer::new()
        .directory("bin", 0o755)
        .file("bin/busybox", 0o755, parts.busybox())
        .directory("etc", 0o755)
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/group", 0o644, GROUP)
        .directory("home", 0o755)
        .directory("root", 0o700)
        .directory("run", 0o755)
        .directory("tmp", 0o1777)
        .directory("var", 0o755)
        .symlink("var/run", "/run");
    for applet in parts.applets() {
        if applet != "busybox" {
            layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
        }
    }
    Image::builder().layer(layer).config("Cmd", json!(["sh"]))
}

/// nginx on `port`, in the foreground, with what it needs to start.
fn nginx(base: &ImageBuilder, parts: &Parts, port: u16) -> ImageBuilder {
    let settings = format!(
        "daemon off;\nuser www-data;\nworker_processes 1;\nerror_log stderr;\npid /var/run/nginx.pid;\n\
         events {{ }}\n\
         http {{ access_log off; server {{ listen {port}; location / {{ return 200 \"hello from nginx\\n\"; }} }} }}\n"
    );
    let files = Layer::new()
        .directory("etc", 0o755)
        .directory("etc/nginx", 0o755)
        .file("etc/nginx/nginx.conf", 0o644, settings)
        .directory("var/lib", 0o755)
        .directory("var/lib/nginx", 0o755)
        .directory("var/log", 0o755)
        .directory("var/log/nginx", 0o755);
    base.clone()
        .layer(parts.tree("nginx"))
        .layer(files)
        .config("Cmd", json!(["nginx", "-c", "/etc/nginx/nginx.conf"]))
}

/// Apache on port 80. Its start-up messages, which a case looks for in the log, carry the name it is started by.
fn httpd(base: &ImageBuilder, parts: &Parts) -> ImageBuilder {
    const SETTINGS: &str = "ServerRoot /usr/lib/apache2\n\
        LoadModule mpm_event_module modules/mod_mpm_event.so\n\
        LoadModule authz_core_module modules/mod_authz_core.so\n\
        LoadModule dir_module modules/mod_dir.so\n\
        DirectoryIndex index.html\n\
        DefaultRuntimeDir /run\nPidFile /run/httpd.pid\nListen 80\nUser www-data\nGroup www-data\n\
        ErrorLog /proc/self/fd/2\nLogLevel info\nDocumentRoot /var/www\n";
    let files = Layer::new()
        .directory("etc", 0o755)
        .file("etc/httpd.conf", 0o644, SETTINGS)
        .directory("var/www", 0o755)
        .file("var/www/index.html", 0o644, "hello from httpd\n");
    base.clone().layer(parts.tree("httpd")).layer(files).config(
        "Cmd",
        json!(["httpd", "-D", "FOREGROUND", "-f", "/etc/httpd.conf"]),
    )
}

/// A set-uid root program that says as whom it runs, started by an ordinary user.
fn setuid(base: &ImageBuilder) -> ImageBuilder {
    base.clone()
        .layer(Layer::new().file("bin/effective-uid", 0o4755, probe()))
        .config("Entrypoint", json!(["/bin/effective-uid", "effective-uid"]))
        .config("Cmd", json!([]))
}

/// Nothing but a program that waits, started without a word from the container.
fn pause() -> ImageBuilder {
    Image::builder()
        .layer(Layer::new().file("pause", 0o755, probe()))
        .config("Entrypoint", json!(["/pause", "sleep"]))
}

fn probe() -> Vec<u8> {
    std::fs::read(built::probe()).expect("the probe is readable")
}

/// A user whom the image itself puts into a group.
fn predefined_group(base: &ImageBuilder) -> ImageBuilder {
    let accounts = Layer::new()
        .directory("etc", 0o755)
        .file(
            "etc/passwd",
            0o644,
            format!("{PASSWD}member:x:1000:1000:member:/home:/bin/sh\n"),
        )
        .file(
            "etc/group",
            0o644,
            format!("{GROUP}member:x:1000:\npredefined:x:50000:member\n"),
        );
    base.clone().layer(accounts).config("User", json!("1000"))
}
