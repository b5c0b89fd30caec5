package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pollux/node/api"
)

// TestBrowser opens sites in a real browser: links within a site work, and each
// site is an origin of its own, whichever address the reader came by.
func TestBrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" && os.Getenv("CI") == "" {
		t.Skip("no Chromium on this machine")
	} else if browser == "" {
		t.Fatal("no Chromium on this machine")
	}

	m := newMachine(t, "node").start(nil)
	add := func(title string) string {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"index.html": `<!doctype html><title>` + title + `</title><script src="/js/run.js"></script>`,
			"js/run.js": `const saved = localStorage.getItem("saved") || "nothing";
localStorage.setItem("saved", document.title);
const r = new XMLHttpRequest();
r.open("GET", "data/100%25 näme.txt", false);
r.send();
document.write("<p>", [document.title, location.origin, "found " + saved, r.responseText].join(" | "), "</p>");`,
			"data/100% näme.txt": "text of " + title,
		} {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var added api.AddResult
		m.run(&added, "add", dir)
		return added.Root
	}
	profile := t.TempDir()
	open := func(url string) string {
		t.Helper()
		cmd := exec.Command(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
			"--user-data-dir="+profile, "--dump-dom", url)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		return string(out)
	}
	port := m.Gateway[strings.LastIndex(m.Gateway, ":")+1:]
	one, two := add("one"), add("two")
	origin := func(root string) string { return "http://" + root + ".ipfs.localhost:" + port }
	for _, tt := range []struct{ url, want string }{
		{origin(one) + "/", "one | " + origin(one) + " | found nothing | text of one"},
		{origin(two) + "/", "two | " + origin(two) + " | found nothing | text of two"},
		{m.Gateway + "/ipfs/" + one, "one | " + origin(one) + " | found one | text of one"},
		{"http://localhost:" + port + "/ipfs/" + two + "/index.html", "two | " + origin(two) + " | found two | text of two"},
	} {
		if got := open(tt.url); !strings.Contains(got, "<p>"+tt.want+"</p>") {
			t.Errorf("%s shows\n%s\nwant %s", tt.url, got, tt.want)
		}
	}
	if home := open(m.Gateway + "/"); !strings.Contains(home, origin(one)) || !strings.Contains(home, origin(two)) {
		t.Errorf("the home page does not link the sites:\n%s", home)
	}
}
