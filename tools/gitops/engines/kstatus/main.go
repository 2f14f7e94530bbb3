// Command kstatus computes the kstatus of each object of a List, which it reads as JSON from its input, with the library
// that Flux uses. It prints one line for each object: its name and its status.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func run(in io.Reader, out io.Writer) error {
	input, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	// This decoder keeps whole numbers whole. encoding/json makes floats of them, and kstatus then finds no generation.
	list := &unstructured.UnstructuredList{}
	if err := list.UnmarshalJSON(input); err != nil {
		return err
	}
	for i := range list.Items {
		result, err := status.Compute(&list.Items[i])
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s\n", list.Items[i].GetName(), result.Status)
	}
	return nil
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}
