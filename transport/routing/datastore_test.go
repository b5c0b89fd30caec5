package routing

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-datastore"
)

func TestDatastoreKeeps(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := filepath.Join(t.TempDir(), "ds")
	key := datastore.NewKey("k")
	ds, err := OpenDatastore(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := ds.Put(t.Context(), key, []byte("v")); err != nil {
		t.Fatal(err)
	}
	// In use: refused, and left as it is.
	if _, err := OpenDatastore(dir, log); err == nil {
		t.Fatal("opened twice")
	}
	if err := ds.Close(); err != nil {
		t.Fatal(err)
	}
	if ds, err = OpenDatastore(dir, log); err != nil {
		t.Fatal(err)
	}
	defer ds.Close()
	if v, err := ds.Get(t.Context(), key); err != nil || string(v) != "v" {
		t.Errorf("got %q, %v", v, err)
	}
}

// Whatever happens to the files, the node starts, with an empty datastore if
// need be.
func TestDatastoreDamaged(t *testing.T) {
	key := datastore.NewKey("k")
	garbage := bytes.Repeat([]byte("\xde\xad\xbe\xef"), 1000)
	for _, tc := range []struct {
		name    string
		pattern string
		damage  func(path string) error
	}{
		{"current garbage", "CURRENT", func(p string) error { return os.WriteFile(p, garbage, 0o600) }},
		{"current empty", "CURRENT", func(p string) error { return os.Truncate(p, 0) }},
		{"current missing", "CURRENT", os.Remove},
		{"manifest garbage", "MANIFEST-*", func(p string) error { return os.WriteFile(p, garbage, 0o600) }},
		{"manifest empty", "MANIFEST-*", func(p string) error { return os.Truncate(p, 0) }},
		{"manifest missing", "MANIFEST-*", os.Remove},
		{"log garbage", "*.log", func(p string) error { return os.WriteFile(p, garbage, 0o600) }},
		{"log missing", "*.log", os.Remove},
		{"tables garbage", "*.ldb", func(p string) error { return os.WriteFile(p, garbage, 0o600) }},
		{"tables missing", "*.ldb", os.Remove},
		{"everything garbage", "*", func(p string) error { return os.WriteFile(p, garbage, 0o600) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ds")
			log := slog.New(slog.DiscardHandler)
			// Opened twice, so that there is a table beside the log.
			for range 2 {
				ds, err := OpenDatastore(dir, log)
				if err != nil {
					t.Fatal(err)
				}
				if err := ds.Put(t.Context(), key, []byte("v")); err != nil {
					t.Fatal(err)
				}
				if err := ds.Close(); err != nil {
					t.Fatal(err)
				}
			}
			files, err := filepath.Glob(filepath.Join(dir, tc.pattern))
			if err != nil || len(files) == 0 {
				t.Fatalf("no file to damage: %v", err)
			}
			for _, f := range files {
				if err := tc.damage(f); err != nil {
					t.Fatal(err)
				}
			}
			ds, err := OpenDatastore(dir, log)
			if err != nil {
				t.Fatal(err)
			}
			defer ds.Close()
			if err := ds.Put(t.Context(), key, []byte("w")); err != nil {
				t.Fatal(err)
			}
			if v, err := ds.Get(t.Context(), key); err != nil || string(v) != "w" {
				t.Errorf("got %q, %v", v, err)
			}
		})
	}
}

// What is no damage is an error, and nothing is moved.
func TestDatastoreUnreadable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ds")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenDatastore(dir, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v does not name the path", err)
	}
	if _, err := os.Stat(dir + ".damaged"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("moved aside: %v", err)
	}
}

// Without a directory nothing is written, and nothing is kept.
func TestDatastoreInMemory(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	key := datastore.NewKey("k")
	for range 2 {
		ds, err := OpenDatastore("", log)
		if err != nil {
			t.Fatal(err)
		}
		if held, err := ds.Has(t.Context(), key); held || err != nil {
			t.Errorf("held before it was put: %v, %v", held, err)
		}
		if err := ds.Put(t.Context(), key, []byte("v")); err != nil {
			t.Fatal(err)
		}
		if v, err := ds.Get(t.Context(), key); err != nil || string(v) != "v" {
			t.Errorf("got %q, %v", v, err)
		}
		if err := ds.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
