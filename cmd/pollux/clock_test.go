package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"pollux/dag"
	"pollux/node/api"
)

// TestTimes adds files whose modification times come from clocks that stood elsewhere.
// They are taken from the cache of the last add, and still each change is noticed,
// though size and modification time stay.
func TestTimes(t *testing.T) {
	quiet(t)
	m := newMachine(t, "m")
	dir := t.TempDir()
	years := []int{1901, 1970, 2016, 2036, 2300}
	write := func(content string) {
		t.Helper()
		for _, year := range years {
			path := filepath.Join(dir, fmt.Sprint(year))
			stamp := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
			if err := errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, stamp, stamp)); err != nil {
				t.Fatal(err)
			}
		}
	}
	add := func() string {
		t.Helper()
		var added api.AddResult
		m.run(&added, "add", dir)
		return added.Root
	}
	write("one")
	first := add()
	// Files that changed in the last two seconds are not remembered.
	time.Sleep(2100 * time.Millisecond)
	for range 2 {
		if again := add(); again != first {
			t.Errorf("unchanged, and the root is %s instead of %s", again, first)
		}
	}
	if info, err := os.Stat(filepath.Join(m.repo, "import-cache")); err != nil || info.Size() < 3*dag.CachedFileSize {
		t.Errorf("the files of years past are not remembered: %v", err)
	}
	write("two")
	second := add()
	for _, year := range years {
		got, err := exec.Command("pollux", "--repo", m.repo, "cat", fmt.Sprint(second, "/", year)).Output()
		if err != nil || string(got) != "two" {
			t.Errorf("the file of %d is %q, %v", year, got, err)
		}
	}
	write("one")
	if again := add(); again != first {
		t.Errorf("as at first, and the root is %s instead of %s", again, first)
	}
}
