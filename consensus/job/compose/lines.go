package compose

import (
	"go.yaml.in/yaml/v4"
)

// tree is a file's nodes, which know their lines.
type tree struct {
	file string
	root *yaml.Node // nil when the file cannot be parsed
}

// locate finds where a key stands: in the last of the given files that has it, through aliases and merged fragments. A
// key that comes from an included or extended file has no place here.
func (in *input) locate(f finding) Warning {
	if in.trees == nil {
		for i, c := range in.files {
			t := &tree{file: in.shown[i]}
			var n yaml.Node
			if yaml.Unmarshal(c.Content, &n) == nil && len(n.Content) > 0 {
				t.root = n.Content[0]
			}
			in.trees = append(in.trees, t)
		}
	}
	w := Warning{Path: f.path()}
	for _, t := range in.trees {
		if line := lineOf(t.root, f.keys); line > 0 {
			w.File, w.Line = t.file, line
		}
	}
	return w
}

// maxMerges bounds how deep fragments that merge fragments are followed.
const maxMerges = 16

// lineOf finds the line of a key, 0 if it is not there. It stops at a list: short forms expand, so that an index of the
// loaded model is not one of the file.
func lineOf(n *yaml.Node, keys []string) int {
	line := 0
	for _, k := range keys {
		if k == "[]" {
			break
		}
		key, value := lookup(n, k, 0)
		if key == nil {
			// A list in the file where the model has a mapping (depends_on, networks): the list is near enough.
			if n = follow(n); n != nil && n.Kind == yaml.SequenceNode {
				return line
			}
			return 0
		}
		line, n = key.Line, value
	}
	return line
}

func follow(n *yaml.Node) *yaml.Node {
	for range maxMerges {
		if n == nil || n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

func lookup(n *yaml.Node, name string, depth int) (key, value *yaml.Node) {
	n = follow(n)
	if n == nil || n.Kind != yaml.MappingNode || depth > maxMerges {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i], n.Content[i+1]
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "<<" {
			continue
		}
		from := follow(n.Content[i+1])
		if from == nil {
			continue
		}
		merged := []*yaml.Node{from}
		if from.Kind == yaml.SequenceNode {
			merged = from.Content
		}
		for _, m := range merged {
			if key, value = lookup(m, name, depth+1); key != nil {
				return key, value
			}
		}
	}
	return nil, nil
}
