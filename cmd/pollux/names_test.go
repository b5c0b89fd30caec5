package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Names that are not UTF-8 are names like others: with and without a daemon, they are
// kept, listed, found and written byte for byte.
func TestNamesNotUTF8(t *testing.T) {
	top := filepath.Join(t.TempDir(), "caf\xe9")
	names := []string{"menu-\xe8.txt", "menu-\xe9.txt", "menu-\ufffd.txt", "sub\xff/\xfe.txt"}
	for _, name := range names {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("in "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	repo := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "pollux", append([]string{"--repo", repo}, args...)...)
		cmd.Env = append(os.Environ(), testEnv...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("pollux %q: %v: %s", args, err, &stderr)
		}
		return string(out)
	}
	root := strings.TrimSpace(run("-q", "add", top))
	check := func() {
		if got := strings.TrimSpace(run("-q", "add", top)); got != root {
			t.Errorf("root %s, was %s", got, root)
		}
		found := map[string]bool{}
		for line := range strings.Lines(run("ls", "--json", root)) {
			var e struct{ Name, NameRaw string }
			if err := json.Unmarshal([]byte(strings.Replace(line, "name_raw", "NameRaw", 1)), &e); err != nil {
				t.Fatal(err)
			}
			if e.NameRaw != "" {
				raw, err := base64.StdEncoding.DecodeString(e.NameRaw)
				if err != nil {
					t.Fatal(err)
				}
				e.Name = string(raw)
			}
			found[e.Name] = true
		}
		for _, name := range names {
			if first, _, _ := strings.Cut(name, "/"); !found[first] {
				t.Errorf("%q is not listed in %v", first, slices.Collect(maps.Keys(found)))
			}
			if got := run("cat", root+"/"+name); got != "in "+name {
				t.Errorf("%q holds %q", name, got)
			}
			dest := filepath.Join(t.TempDir(), "one")
			run("get", "-o", dest, root+"/"+name)
			if got, err := os.ReadFile(dest); err != nil || string(got) != "in "+name {
				t.Errorf("%q holds %q, %v", name, got, err)
			}
		}
		dest := filepath.Join(t.TempDir(), "all\xff")
		run("get", "-o", dest, root)
		for _, name := range names {
			if got, err := os.ReadFile(filepath.Join(dest, name)); err != nil || string(got) != "in "+name {
				t.Errorf("%q holds %q, %v", name, got, err)
			}
		}
	}
	check()

	m := &machine{t: t, name: "named", repo: repo}
	m.start(nil)
	check()
	for _, name := range names {
		if status, body := m.read(root, name); status != 200 || string(body) != "in "+name {
			t.Errorf("the gateway has %q as %d %q", name, status, body)
		}
	}
	_, page := m.read(root, "")
	for _, name := range names {
		first, _, _ := strings.Cut(name, "/")
		if href := (&url.URL{Path: first}).EscapedPath(); !bytes.Contains(page, []byte(href)) {
			t.Errorf("the listing does not lead to %q", first)
		}
	}
}
