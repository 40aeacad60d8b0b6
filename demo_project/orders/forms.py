from django import forms

from orders.models import Product


class OrderForm(forms.Form):
    product = forms.ModelChoiceField(Product.objects.order_by("pk"), empty_label=None, widget=forms.RadioSelect)
