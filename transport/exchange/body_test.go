package exchange

import (
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
