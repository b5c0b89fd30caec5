package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pollux/node/api"
)

// damageSite changes a byte in the record of each block of a machine's store whose
// bytes are stored as they are and hold mark. It returns the packs that it changed.
func damageSite(t *testing.T, m *machine, mark string) (packs []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(m.repo, "blocks", "*.pack"))
	if err != nil || len(all) == 0 {
		t.Fatalf("packs: %v, %v", all, err)
	}
	for _, name := range all {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		damaged := false
		for i := range data {
			if i+len(mark) <= len(data) && string(data[i:i+len(mark)]) == mark {
				data[i] ^= 1
				damaged = true
			}
		}
		if damaged {
			packs = append(packs, name)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(packs) == 0 {
		t.Fatalf("no block holds %q", mark)
	}
	return packs
}

// TestRepair damages a mirror's disk: pollux repair fetches what is lost from the
// other mirror, and a daemon does so by itself when a reader meets the damage.
func TestRepair(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	writeSite(t, dir)
	const mark = "7#pK!zQ~"
	if err := os.WriteFile(filepath.Join(dir, "marked.html"), []byte(mark), 0o644); err != nil {
		t.Fatal(err)
	}
	a := newMachine(t, "a").start(nil)
	var added api.AddResult
	a.run(&added, "add", dir)
	a.status("all blocks are announced", announced)
	b := newMachine(t, "b").start(a)
	b.run(new(api.FollowResult), "follow", added.Root, "--wait")

	damageSite(t, b, mark)
	var repaired api.RepairResult
	b.run(&repaired, "repair")
	if repaired.Damaged != 1 || repaired.Received == 0 || len(repaired.Incomplete) > 0 || repaired.QuarantinedBytes != 0 {
		t.Errorf("repaired %+v", repaired)
	}
	b.run(&repaired, "repair")
	if repaired.Damaged != 0 || repaired.Received != 0 {
		t.Errorf("repaired again: %+v", repaired)
	}

	packs := damageSite(t, b, mark)
	if _, body := b.read(added.Root, "marked.html"); string(body) != mark {
		t.Errorf("read %q", body)
	}
	b.status("the damage is repaired", func(s api.Status) bool {
		bad, err := filepath.Glob(filepath.Join(b.repo, "blocks", "*.bad"))
		if err != nil {
			t.Fatal(err)
		}
		// The reader has the block again before the pack is looked at.
		for _, name := range packs {
			if _, err := os.Stat(name); err == nil {
				return false
			}
		}
		whole := !slices.ContainsFunc(s.Sites, func(s api.Site) bool { return s.State != api.StateWhole })
		return whole && len(bad) == 0 && s.Store.QuarantinedBytes == 0
	})
	var checked api.CheckResult
	b.run(&checked, "check", "--data")
	if checked.Damaged > 0 || len(checked.Incomplete) > 0 {
		t.Errorf("checked %+v", checked)
	}
}
