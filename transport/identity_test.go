package transport

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
)

func TestIdentityIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	made, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", info.Mode().Perm())
	}
	loaded, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.Equals(made) {
		t.Error("loaded another key than was made")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestIdentityRefused(t *testing.T) {
	whole := func(t *testing.T, path string) []byte {
		if _, err := LoadIdentity(path); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, tc := range []struct {
		name string
		make func(t *testing.T, path string)
		want string // in the message, beside the path
	}{
		{"readable by the group", func(t *testing.T, path string) {
			whole(t, path)
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		}, "chmod 600"},
		{"truncated", func(t *testing.T, path string) {
			data := whole(t, path)
			if err := os.WriteFile(path, data[:len(data)-1], 0o600); err != nil {
				t.Fatal(err)
			}
		}, "backup"},
		{"empty", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "backup"},
		{"one bit of the public half flipped", func(t *testing.T, path string) {
			data := whole(t, path)
			data[len(data)-1] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "backup"},
		{"endless", func(t *testing.T, path string) {
			if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "longer than"},
		{"of another type", func(t *testing.T, path string) {
			key, _, err := crypto.GenerateSecp256k1Key(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			data, err := crypto.MarshalPrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "Ed25519"},
		{"directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "regular file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "identity.key")
			tc.make(t, path)
			before, _ := os.ReadFile(path)
			_, err := LoadIdentity(path)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with the path and %q", err, tc.want)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestIdentityNowhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "identity.key")
	if _, err := LoadIdentity(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v does not name the path", err)
	}
}
