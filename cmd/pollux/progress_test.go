package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pollux/node/api"
)

// TestProgressOfUpdate shows the fetch of a site of which most is there: the rate and the
// time that is left are of what comes.
func TestProgressOfUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := &progress{w: &out}
		const held, total, rate = 270_000_000, 276_000_000, 600_000
		p.show(api.Progress{Phase: "fetching"})
		for i := range int64(40) { // 0.1 s each
			p.show(api.Progress{
				Phase: "fetching", Bytes: held + i*rate/10, TotalBytes: total, HeldBytes: held,
				Received: i * rate / 100, Peers: 3,
			})
			time.Sleep(100 * time.Millisecond)
		}
		lines := strings.Split(out.String(), "\r")
		last := lines[len(lines)-1]
		// 6 MB were to come, of which 2.3 have come in 3.9 s.
		for _, want := range []string{"fetching 234 kB from 3 peers", "(2.3/6.0 MB, ", "00 kB/s", "[3s:6s]"} {
			if !strings.Contains(last, want) {
				t.Errorf("%q is not in %q", want, last)
			}
		}
		p.done()
		if !strings.HasSuffix(strings.TrimRight(out.String(), " "), "\r") {
			t.Errorf("the bar stays: %q", out.String())
		}
	})
}
