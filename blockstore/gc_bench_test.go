package blockstore

import (
	"encoding/binary"
	"testing"

	"github.com/ipfs/go-cid"
)

// millionBlocks fills a store with n blocks of 100 bytes.
func millionBlocks(b *testing.B, path string, n int) (*Store, []cid.Cid) {
	b.Helper()
	s := openDir(b, path)
	w := s.NewWriter()
	cids := make([]cid.Cid, n)
	for i := range n {
		data := make([]byte, 100)
		binary.LittleEndian.PutUint64(data, uint64(i)*0x9E3779B97F4A7C15)
		block := Sum(cid.Raw, data)
		cids[i] = block.CID()
		if _, err := w.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		b.Fatal(err)
	}
	return s, cids
}

// BenchmarkCollect removes half of a million blocks.
func BenchmarkCollect(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s, cids := millionBlocks(b, b.TempDir(), 1_000_000)
		b.StartTimer()
		stats, err := s.Collect(b.Context(), func(m *Marks) error {
			for i := 0; i < len(cids); i += 2 {
				m.Add(cids[i])
			}
			return nil
		}, nil)
		if err != nil || stats.Blocks != 500_000 {
			b.Fatal(stats, err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}

// BenchmarkOpen opens a store of a million blocks.
func BenchmarkOpen(b *testing.B) {
	path := b.TempDir()
	s, _ := millionBlocks(b, path, 1_000_000)
	s.Close()
	for b.Loop() {
		openDir(b, path).Close()
	}
}
