//go:build linux

package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// torrentScript is run by Debian's Python, which Debian's libtorrent is made for.
//
//go:embed torrent.py
var torrentScript []byte

const debianPython = "/usr/bin/python3"

// torrentProgram is libtorrent: a session on each machine, told of all others. A mirror's
// begins with the transfer.
var torrentProgram = program{start: startTorrents, fetch: fetchTorrent}

func (w *world) torrentFiles() (script, torrent string) {
	return filepath.Join(w.dir, "torrent.py"), filepath.Join(w.dir, "site.torrent")
}

func (m *machine) torrentAddr() string { return fmt.Sprintf("%s:%d", m.addr, m.port(6881)) }

// startTorrents runs the seeds' sessions.
func startTorrents(ctx context.Context, w *world) error {
	if _, err := w.seeds[0].exec(ctx, debianPython, "-c", "import libtorrent"); err != nil {
		return skipError("no libtorrent (Debian's package is python3-libtorrent)")
	}
	script, torrent := w.torrentFiles()
	if err := os.WriteFile(script, torrentScript, 0o600); err != nil {
		return err
	}
	if _, err := w.seeds[0].exec(ctx, debianPython, script, "make", torrent, w.site); err != nil {
		return err
	}
	for _, seed := range w.seeds {
		var err error
		seed.daemon, err = seed.serve(ctx, func(line string) bool { return line == "seeding" },
			debianPython, script, "seed", torrent, w.site, seed.torrentAddr())
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchTorrent runs a mirror's session until it has all.
func fetchTorrent(ctx context.Context, w *world, m *machine) (fetched, error) {
	script, torrent := w.torrentFiles()
	args := []string{script, "fetch", torrent, filepath.Join(w.dir, m.name), m.torrentAddr()}
	for _, other := range w.machines() {
		if other != m {
			args = append(args, other.torrentAddr())
		}
	}
	out, err := m.exec(ctx, debianPython, args...)
	if err != nil {
		return fetched{}, err
	}
	// Its session runs already, like a daemon does when it is told to follow.
	var said struct {
		Seconds float64
		Peak    int64
	}
	err = json.Unmarshal([]byte(out), &said)
	return fetched{seconds: said.Seconds, peak: said.Peak}, err
}
