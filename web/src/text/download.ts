/** Hands a file made in memory to the browser's downloads. */
export function saveFile(name: string, data: Blob): void {
  const address = URL.createObjectURL(data);
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  // The browser takes the data while it starts: not before the next turn.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
