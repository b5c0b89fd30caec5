package exchange

import (
	"bytes"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain fails if a goroutine that runs code of this module is left when all tests have ended
// and closed their hosts. Before, in parallel with others, no test could tell what is left of it.
func TestMain(m *testing.M) {
	code := m.Run()
	end := time.Now().Add(20 * time.Second)
	for left := leftOver(); code == 0 && len(left) > 0; left = leftOver() {
		if time.Now().After(end) {
			fmt.Printf("goroutines are left:\n%s\n", strings.Join(left, "\n\n"))
			code = 1
		}
		time.Sleep(10 * time.Millisecond)
	}
	os.Exit(code)
}

// leftOver returns the goroutines of this module but for that of TestMain.
func leftOver() []string {
	return slices.DeleteFunc(goroutines("\tpollux/"), func(g string) bool {
		return strings.Contains(g, "exchange.TestMain+")
	})
}

// goroutines returns the stacks of those that have one of the given texts in theirs, with the
// name of the test that began them, or whose host did.
func goroutines(with ...string) (found []string) {
	var all bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&all, 1)
	for _, g := range strings.Split(all.String(), "\n\n") {
		if slices.ContainsFunc(with, func(text string) bool { return strings.Contains(g, text) }) {
			found = append(found, g)
		}
	}
	return found
}

// label puts the name of a test on its goroutine, and on those that begin from there.
func label(t testing.TB) {
	pprof.SetGoroutineLabels(pprof.WithLabels(t.Context(), pprof.Labels("test", t.Name())))
}
