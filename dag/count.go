package dag

import "context"

// count adds up the files in the tree called name in root, so that progress has a
// total, and releases root. It reads directories and inodes only, a small part of
// what the import does. It gives up silently: what stops it stops the import too,
// which then says so.
func (im *importer) count(ctx context.Context, root *sharedRoot, name string) {
	var files, bytes int64
	add := func(in *sharedRoot, name string) {
		if info, err := in.Lstat(name); err == nil && info.Mode().IsRegular() {
			files++
			bytes += info.Size()
		}
	}
	type dir struct {
		parent   *sharedRoot
		name     string
		ignoring ignoring
	}
	var stack []dir
	if info, err := root.Lstat(name); err == nil && info.IsDir() {
		stack = append(stack, dir{root, name, ignoring{}})
	} else {
		add(root, name)
		root.release()
	}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		here, err := openDir(d.parent, d.name)
		if err != nil {
			return
		}
		entries, rules, err := listDir(ctx, here.Root, im.hidden, d.ignoring)
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.IsDir() {
				here.hold()
				stack = append(stack, dir{here, e.Name(), rules.in(e.Name())})
			} else {
				add(here, e.Name())
			}
		}
		here.release()
	}
	im.meter.totalFiles.Store(files)
	im.meter.totalBytes.Store(bytes)
}
