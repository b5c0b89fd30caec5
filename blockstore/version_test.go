package blockstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNewerFormat has a pack, or an index, of a later version: the store is refused and
// not a byte of it changed, though another index is missing.
func TestNewerFormat(t *testing.T) {
	for name, newer := range map[string]func([]byte){
		packName(2): func(data []byte) {
			data[8] = formatVersion + 1
			binary.LittleEndian.PutUint32(data[12:], packHeadCRC(data))
		},
		indexName(2): func(data []byte) {
			data[8] = formatVersion + 1
			binary.LittleEndian.PutUint32(data[52:], crc32.Checksum(data[:52], castagnoli))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			s, _ := fillStore(t, path, 100)
			s.Close()
			if err := os.Remove(filepath.Join(path, indexName(1))); err != nil {
				t.Fatal(err)
			}
			overwrite(t, path, name, func(data []byte) []byte { newer(data); return data })
			before := readDir(t, path)
			dir, _ := Dir(path)
			if _, err := Open(dir, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), name) {
				t.Fatalf("Open = %v", err)
			}
			if !maps.Equal(readDir(t, path), before) {
				t.Error("a store of a newer format was changed")
			}
		})
	}
}

// readDir returns the files in a directory.
func readDir(t *testing.T, path string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(path, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}
