package exchange

import (
	"bytes"
	"runtime"
	"testing"
)

// TestBombTakesNoMemory decodes bodies of a few KiB that would be 256 MiB: what says so is refused
// at once, and what does not as soon as it is more than it announced or may be.
func TestBombTakesNoMemory(t *testing.T) {
	const size = 256 << 20
	dec, err := newDecoder()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]body{
		"that says so":         {count: 1, encoding: encodingZstd, raw: 1000, payload: bomb(size, false)},
		"that does not":        {count: 1, encoding: encodingZstd, raw: 1000, payload: bomb(size, true)},
		"that announces a lot": {count: 1, encoding: encodingZstd, raw: maxRaw, payload: bomb(size, true)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := b.pieces(dec, nil); err == nil {
			t.Errorf("a bomb %s is no error", name)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 8*maxRaw {
			t.Errorf("a bomb %s takes %d bytes", name, n)
		}
	}
}

// TestPackedWindow decodes frames that name a window: docs/protocol.md says how large it may be.
func TestPackedWindow(t *testing.T) {
	dec, err := newDecoder()
	if err != nil {
		t.Fatal(err)
	}
	const n = 100
	page := raw(string(make([]byte, n)))
	// frame is n zeros, which a block of a single byte repeats, behind a Window_Descriptor.
	frame := func(descriptor byte) []byte {
		return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, descriptor, n<<3&0xff | 1<<1 | 1, n << 3 >> 8, 0, 0}
	}
	for _, tt := range []struct {
		name       string
		descriptor byte
		ok         bool
	}{
		{"1 KiB", 0, true},
		{"2 MiB", 11 << 3, true},
		{"2.25 MiB", 11<<3 | 1, false},
		{"4 MiB", 12 << 3, false},
	} {
		packed := frame(tt.descriptor)
		if b, err := unpack(page.CID(), packed); (err == nil) != tt.ok || tt.ok && !bytes.Equal(b.Data(), page.Data()) {
			t.Errorf("a block with a window of %s: %v", tt.name, err)
		}
		// The head of an empty piece is 0.
		b := body{count: n, encoding: encodingZstd, raw: n, payload: packed}
		if p, err := b.pieces(dec, nil); (err == nil) != tt.ok || tt.ok && len(p) != n {
			t.Errorf("pieces with a window of %s: %v", tt.name, err)
		}
	}
}
