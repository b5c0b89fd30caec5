package main

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pollux/node/api"
)

// TestNewerVersion has files in a repository that a later version of the program wrote.
// Every command refuses it, names the file and says what to do, and changes nothing.
func TestNewerVersion(t *testing.T) {
	quiet(t)
	for _, tt := range []struct {
		file  string
		newer func(data []byte) []byte
		want  string
	}{
		{"blocks/00000001.pack", func(head []byte) []byte {
			binary.LittleEndian.PutUint32(head[8:], 2)
			table := crc32.MakeTable(crc32.Castagnoli)
			sum := crc32.Update(crc32.Checksum(head[:12], table), table, head[16:32])
			binary.LittleEndian.PutUint32(head[12:], sum)
			return head
		}, "00000001.pack: format version 2: written by a newer version of Pollux; run that version"},
		// The rest of the list may look like anything.
		{"sites.json", func([]byte) []byte { return []byte(`{"version": 2, "sites": {"a": 1}}`) },
			"sites.json: version 2: written by a newer version of Pollux; run that version"},
		{"config.toml", func([]byte) []byte { return []byte("mdns = false\nteleport = true\n") },
			`config.toml:2: unknown key "teleport"`},
	} {
		m := newMachine(t, "m")
		site := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(site, []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
		var added api.AddResult
		m.run(&added, "add", site)
		path := filepath.Join(m.repo, tt.file)
		data, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, tt.newer(data), 0o600); err != nil {
			t.Fatal(err)
		}
		// A torn record at the end would be cut off at a start.
		pack := filepath.Join(m.repo, "blocks", "00000001.pack")
		f, err := os.OpenFile(pack, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("torn"); err != nil {
			t.Fatal(err)
		}
		f.Close()

		before := contents(t, m.repo)
		for _, args := range [][]string{{"daemon"}, {"add", site}, {"cat", added.Root}, {"gc"}, {"check"}, {"status"}} {
			if out := m.refused(args...); !strings.Contains(out, tt.want) {
				t.Errorf("%s: pollux %s says %q, want %q in it", tt.file, args[0], out, tt.want)
			}
		}
		after := contents(t, m.repo)
		wantSameTree(t, after, before)
	}
}
