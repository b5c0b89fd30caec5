package blockstore

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestCheck damages one record in each of several ways: the check finds just that,
// and changes nothing on disk.
func TestCheck(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	target := blocks[5]
	_, e, _, _ := s.find(keyOf(target.CID().Hash()))
	s.Close()
	for name, tt := range map[string]struct {
		damage    func(pack []byte) []byte
		structure int // reports of a check without data
		data      int // and with
	}{
		"nothing":     {func(b []byte) []byte { return b }, 0, 0},
		"the payload": {func(b []byte) []byte { b[e.offset+100]++; return b }, 0, 1},
		"the head":    {func(b []byte) []byte { b[e.offset+9]++; return b }, 1, 1},
		"the hash":    {func(b []byte) []byte { b[e.offset+recordHeader+7]++; return b }, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := copyDir(t, path)
			s := small(openDir(t, path))
			file := filepath.Join(path, packName(1))
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			damaged := tt.damage(bytes.Clone(data))
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			for data, want := range map[bool]int{false: tt.structure, true: tt.data} {
				found := 0
				res, err := s.Check(t.Context(), data, func(err error) { t.Log(err); found++ }, nil)
				if err != nil || found != want || res.Blocks != len(blocks) || res.Packs != len(s.packs) {
					t.Errorf("data %v: %d reports, want %d; %+v, %v", data, found, want, res, err)
				}
			}
			if after, _ := os.ReadFile(file); !bytes.Equal(after, damaged) {
				t.Error("the check changed the pack")
			}
		})
	}
}
